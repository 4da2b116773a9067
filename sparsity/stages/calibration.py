"""The stream of statistics for pruning: recalled from the cache if pruning cannot change them, else computed from the text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor

from ..cache import recalled
from ..core import distinct
from ..engine import asks
from ..models import Decoder
from ..options.components import Parts
from ..options.settings import Settings
from ..processes import ALONE, Processes
from ..record import console
from ..record.environment import circumstances
from ..stream import BlockStream, Needs, Propagate, Stream, Target
from .job import Job
from .key import statistics_key
from .loading import DenseModel
from .sizes import statistics


@contextmanager
def calibration(
    job: Job,
    dense: DenseModel,
    needs: Needs,
    ids_BT: Tensor | None,
    propagate: Propagate,
    target: Target | None = None,
    processes: Processes = ALONE,
) -> Iterator[Stream]:
    """Return a stream that stands before the first block.

    `needs`: with `propagate` dense, all statistics that may be requested; the cache may hold them. `target`: the outputs that a
    refinement matches; they need the text itself. `processes`: those that share the text.
    """
    batch_size = job.settings.calibration.batch_size

    def walker() -> BlockStream:
        return BlockStream(
            dense.decoder,
            ids_BT,
            batch_size=batch_size,
            propagate=propagate,
            device=job.device,
            target=target,
            processes=processes,
        )

    if ids_BT is None or target is not None or propagate != "dense" or not job.settings.cache.statistics:
        yield walker()
        return
    about = {**model_and_text(dense, ids_BT), "batch_size": batch_size, **statistics_key(needs)}
    about |= circumstances(job.device, processes.size)
    labels = {"name": dense.loaded.name, "text": job.parts.dataset.describe()}
    with ExitStack() as stack:
        shared = partial(_shared, job, dense.decoder, needs)
        along = recalled(job.cache, about, labels, dense.decoder, needs, shared, job.device, walker, processes)
        found = stack.enter_context(along)
        stream: Stream = found or walker()
        if found is None:
            console.say("these statistics are not kept: each run collects them anew")
        yield stream


def _shared(job: Job, decoder: Decoder, needs: Needs) -> Needs:
    """The union of `needs` and of the needs of this run and of its sweep's other points, so that one pass collects the statistics
    for all of them. If the cache cannot hold that many, `needs` alone.
    """
    union = dict(needs)
    for parts, settings in _points(job):
        if settings.calibration.propagate == "dense":
            theirs = {site: asks(parts.method, parts.corrector, settings.errors, site) for site in needs}
            union = {site: distinct([*taps, *theirs[site]]) for site, taps in union.items()}
    held = sum(statistics(job.settings.calibration, decoder, union).values())
    fits = held <= job.cache.limit / 2 and statistics_key(union) == statistics_key(needs)
    return union if fits else needs


def _points(job: Job) -> Iterator[tuple[Parts, Settings]]:
    yield job.parts, job.settings
    yield from job.place.kin()


def model_and_text(dense: DenseModel, ids_BT: Tensor) -> dict[str, object]:
    """The part of a cache key that identifies the dense model and the token ids (B, T)."""
    digest = hashlib.sha256(ids_BT.numpy().tobytes()).hexdigest()
    return {"model": dense.fingerprint, "ids": digest, "shape": list(ids_BT.shape)}

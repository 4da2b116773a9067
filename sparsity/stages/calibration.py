"""What a walk goes along: recalled statistics where they depend on nothing that a run changes, else the calibration text itself."""

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
    """In front of the first block. With `propagate` dense, `needs` is all that may be asked of it, and the cache may know it.

    `target`: what a refinement matches; it needs the text itself. `processes`: among which the text is dealt out.
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
    """`needs` and what this run and the other points of its sweep will ask for, so that one walk serves all. If that is too much
    to keep, `needs`.
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
    """The dense model and the ids, for a key."""
    digest = hashlib.sha256(ids_BT.numpy().tobytes()).hexdigest()
    return {"model": dense.fingerprint, "ids": digest, "shape": list(ids_BT.shape)}

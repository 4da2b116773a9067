"""What a walk goes along: recalled statistics where they depend on nothing that a run changes, else the calibration text itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor

from ..stream import BlockStream, Needs, Propagate, Stream
from . import console
from .cache import recalled
from .dense import Dense
from .environment import circumstances
from .job import Job
from .key import statistics_key


@contextmanager
def calibration(job: Job, dense: Dense, needs: Needs, ids_BT: Tensor | None, propagate: Propagate) -> Iterator[Stream]:
    """In front of the first block. With `propagate` dense, `needs` is all that may be asked of it, and the cache may know it."""
    batch_size = job.settings.calibration.batch_size

    def walker() -> BlockStream:
        return BlockStream(dense.decoder, ids_BT, batch_size=batch_size, propagate=propagate, device=job.device)

    if ids_BT is None or propagate != "dense" or not job.settings.cache.statistics:
        yield walker()
        return
    about = {**text(dense, ids_BT), "batch_size": batch_size, **circumstances(job.device), **statistics_key(needs)}
    told = {"name": dense.loaded.name, "text": job.parts.dataset.describe()}
    with ExitStack() as stack:
        found = stack.enter_context(recalled(job.cache, about, told, dense.decoder, needs, job.device, walker))
        stream: Stream = found or walker()
        if found is None:
            console.say("these statistics are not kept: each run collects them anew")
        yield stream


def text(dense: Dense, ids_BT: Tensor) -> dict[str, object]:
    """The model and the ids, for a key."""
    digest = hashlib.sha256(ids_BT.numpy().tobytes()).hexdigest()
    return {"model": dense.fingerprint, "ids": digest, "shape": list(ids_BT.shape)}

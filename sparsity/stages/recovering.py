"""A run's recovery: what it must know of the dense model is taken before the first layer is pruned. A run that is resumed begins
its recovery again: its blocks are done, and equal blocks recover equally.
"""

from __future__ import annotations

from torch import Tensor

from ..engine import Plan
from ..models import Decoder
from ..recover import Recovered, Taught
from .job import Job


def taught(job: Job, dense: Decoder, plan: Plan, ids_BT: Tensor | None) -> Taught | None:
    """What to recover towards; None where nothing is to recover. Ask for it before the first layer is pruned."""
    recovery = job.parts.recover
    if not recovery.reads_text or ids_BT is None:
        return None
    with dense.on(job.device):
        return recovery.teach(dense, _batches(job, ids_BT), plan.head is not None)


def recover(job: Job, pruned: Decoder, plan: Plan, ids_BT: Tensor | None, known: Taught | None) -> Recovered:
    """What the recovery says of it, and the rows of recovery.csv, which is written here."""
    if known is None or ids_BT is None:
        return Recovered({}, [])
    sites = [site for site in plan.needs if plan.method.asked(site, plan.patterns[site])]
    with pruned.on(job.device):
        found = job.parts.recover.recover(pruned, sites, _batches(job, ids_BT), known)
    job.store.csv("recovery.csv", found.rows)
    return found


def _batches(job: Job, ids_BT: Tensor) -> list[Tensor]:
    return [*ids_BT.split(job.settings.calibration.batch_size)]

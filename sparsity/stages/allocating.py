"""The stage `allocate`: each layer's share of the total sparsity. It is measured on the dense model before the first layer is
pruned, or read from the cache if an earlier run measured it.

The cache keeps the measurement, not the shares, so that all sparsities and bounds of a sweep use the same one. A resumed run
allocates again: its model is dense until the journal's blocks are written into it, and equal measurements give equal shares. With
several processes, the first one measures and sends the result to the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from ..allocation import Shapes
from ..core import Layer, UserError
from ..record.environment import circumstances
from .calibration import calibration, model_and_text
from .job import Job
from .key import measurement_key
from .loading import DenseModel
from .stage import Found, Plain

if TYPE_CHECKING:
    from .work import Work


@dataclass(frozen=True)
class Allocate(Plain):
    """The stage `allocate`."""

    name = "allocate"

    def check(self, job: Job) -> None:
        allocation = job.parts.allocation
        if job.parts.model.stream and not allocation.streams:
            raise UserError(
                f"allocation {allocation} runs the whole model many times, and model.stream=true leaves its blocks in their files: "
                f"expected an allocation that sees one block at a time. Use allocation=uniform or allocation=owl"
            )
        allocation.check(job.parts.pattern)

    def do(self, work: Work, known: None) -> Found:
        """Put into the plan a pattern for every layer of the blocks from which weights are removed."""
        plan, job = work.plan, work.job
        asked = [site for site in plan.needs if plan.method.asked(site, plan.patterns[site])]
        if not asked:
            return Found()
        with work.busy("measuring what layers can give up"):
            shapes: Shapes = {site: _shape(work.decoder.layer(site)) for site in asked}
            allocation, processes = job.parts.allocation, job.processes
            measured: Mapping[str, Tensor] = {}
            if processes.rank == 0 and allocation.measurement is not None and work.ids_BT is not None:
                measured = _measured(job, work.dense, shapes, work.ids_BT)
            names = processes.agreed([*measured])
            measured = dict(zip(names, processes.each([*measured.values()]), strict=True))
        shares = allocation.allot(job.parts.pattern, shapes, measured)
        work.plan = replace(plan, patterns={**plan.patterns, **shares.patterns})
        return Found(tables={"allocation": shares.rows} if shares.rows else {})


def _measured(job: Job, dense: DenseModel, shapes: Shapes, ids_BT: Tensor) -> Mapping[str, Tensor]:
    allocation = job.parts.allocation
    content = {
        "evaluator": allocation.measurement,
        "layers": [site.name for site in shapes],
        "batch_size": job.settings.calibration.batch_size,
        **model_and_text(dense, ids_BT),
        **circumstances(job.device),
        **measurement_key(allocation),
    }

    def measure() -> Mapping[str, Tensor]:
        needs = {site: tuple(allocation.needs(site)) for site in shapes}
        with calibration(job, dense, needs, ids_BT, "dense") as stream:
            return allocation.measure(dense.decoder, stream, ids_BT, shapes)

    return job.cache.remembered(content, measure)


def _shape(layer: Layer) -> tuple[int, int]:
    outputs, inputs = layer.weight_OI.shape
    return outputs, inputs

"""A run's allocation: measured on the dense model before the first layer is pruned, or read where an earlier run measured it.

What is kept is the measurement, not the shares, so that all sparsities and bounds of a sweep read one. A run that is resumed allots
as it did: its model is dense again until the journal's blocks are written, and equal measurements give equal shares. Of several
processes the first one measures, and tells the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..allocation import Shapes
from ..core import Layer
from ..engine import Plan
from ..record.environment import circumstances
from .calibration import calibration, text
from .job import Job
from .key import measurement_key
from .loading import Dense


def allocate(job: Job, dense: Dense, plan: Plan, ids_BT: Tensor | None) -> Plan:
    """The plan with a pattern for every layer of the blocks of which anything is asked. Writes allocation.csv."""
    asked = [site for site in plan.needs if plan.method.asked(site, plan.patterns[site])]
    if not asked:
        return plan
    shapes: Shapes = {site: _shape(dense.decoder.layer(site)) for site in asked}
    allocation = job.parts.allocation
    measures = job.processes.rank == 0 and allocation.measurement is not None
    measured = _measured(job, dense, shapes, ids_BT) if measures and ids_BT is not None else {}
    names = json.loads(job.processes.words(json.dumps([*measured]))[0])
    measured = dict(zip(names, job.processes.each([*measured.values()]), strict=True))
    found = allocation.allot(job.parts.pattern, shapes, measured)
    if found.rows and job.processes.rank == 0:
        job.store.csv("allocation.csv", found.rows)
    return replace(plan, patterns={**plan.patterns, **found.patterns})


def _measured(job: Job, dense: Dense, shapes: Shapes, ids_BT: Tensor) -> Mapping[str, Tensor]:
    allocation = job.parts.allocation
    content = {
        "evaluator": allocation.measurement,
        "layers": [site.name for site in shapes],
        "batch_size": job.settings.calibration.batch_size,
        **text(dense, ids_BT),
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

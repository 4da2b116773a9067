"""The measures that the runs of a report declare, in the order of a table's columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..measures import Measure
from .read import Run

PERPLEXITY = "perplexity.pruned"
# These come first, in this order; after them all others, in the order of the results.
FIRST = (
    "perplexity.dense", PERPLEXITY, "rise", "sparsity.asked", "sparsity.found", "layers.error_before_mean",
    "layers.relative_error_mean", "layers.held_out_error_mean", "seconds.total", "peak_memory_bytes",
    "peak_device_memory_bytes",
)  # fmt: skip


def measured(run: Run) -> dict[str, float]:
    """Every number that the run measured, by its name."""
    return {measure.name: measure.value for measure in run.result.all_measures}


def measures(runs: Sequence[Run]) -> list[Measure]:
    """One measure for each name that any of the runs knows, as the latest of them declares it: first evaluations, then the rest."""
    found = {measure.name: measure for run in runs for measure in run.result.all_measures}
    return sorted(found.values(), key=lambda measure: _rank(measure.name))


def stages(runs: Iterable[Run]) -> list[str]:
    """The stages of the runs, in the order of their results: those of one run keep theirs."""
    found: list[str] = []
    for run in runs:
        place = 0
        for stage in run.result.seconds:
            if stage in found:
                place = found.index(stage) + 1
            else:
                found.insert(place, stage)
                place += 1
    return found


def _rank(name: str) -> tuple[int, int]:
    if name in FIRST:
        return 0, FIRST.index(name)
    return (1, 0) if name.startswith("evaluation.") else (2, 0)

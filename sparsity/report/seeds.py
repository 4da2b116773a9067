"""The comparison of methods over seeds, which draw the calibration text. It needs at least three seeds to estimate the spread."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import combinations

from ..comparison import Interval, holm, over_seeds, seeds_difference, verdict
from ..measures import Better
from .gather import Composition, Group
from .measures import PERPLEXITY

AT_LEAST = 3


@dataclass(frozen=True)
class Summary:
    """The perplexities of a composition over its seeds. `interval`: that of the mean, None for fewer than three seeds."""

    composition: Composition
    values: dict[str, float]
    sparsity: float | None  # the requested sparsity
    mean: float
    deviation: float | None
    interval: Interval | None
    better: Better | None  # of perplexity, as its measure says


@dataclass(frozen=True)
class Difference:
    """The difference b - a of two mean perplexities over common seeds. `adjusted`: p after Holm over all differences shown."""

    a: int  # index of a summary
    b: int
    interval: Interval
    adjusted: float
    better: Better | None

    @property
    def winner(self) -> str | None:
        return self.better and verdict(self.interval, self.better, self.adjusted)


def summarise(group: Group) -> list[Summary]:
    """The compositions whose perplexity is known, the best mean first."""
    found, better = [], group.better(PERPLEXITY)
    for composition in group.compositions:
        values = {
            seed: value
            for seed, i in composition.seeds.items()
            if (value := group.numbers[i].get(PERPLEXITY)) is not None
        }
        if values:
            seen = list(values.values())
            deviation = statistics.stdev(seen) if len(seen) > 1 else None
            interval = over_seeds(seen) if len(seen) >= AT_LEAST else None
            asked = group.numbers[next(iter(composition.seeds.values()))].get("sparsity.asked")
            found.append(Summary(composition, values, asked, statistics.mean(seen), deviation, interval, better))
    return sorted(found, key=lambda summary: summary.mean, reverse=better == "larger")


def differences(summaries: list[Summary]) -> list[Difference]:
    """The differences between all pairs of compositions with equal requested sparsity and at least three common seeds."""
    found = []
    for (a, one), (b, other) in combinations(enumerate(summaries), 2):
        common = [seed for seed in one.values if seed in other.values]
        if len(common) >= AT_LEAST and one.sparsity == other.sparsity:
            pairs = [one.values[seed] for seed in common], [other.values[seed] for seed in common]
            found.append((a, b, seeds_difference(*pairs, paired=True)))
    adjusted = holm([interval.p for _, _, interval in found])
    return [
        Difference(a, b, interval, p, summaries[a].better) for (a, b, interval), p in zip(found, adjusted, strict=True)
    ]

"""The runs grouped by protocol: for each group the options that differ, the numbers and the compositions.

A composition is a set of runs that differ only in their seed. If a seed was run twice, only the latest run counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from ..measures import Better, Measure
from . import options, protocol
from .measures import measured, measures, stages
from .options import Options
from .read import Run


@dataclass(frozen=True)
class Composition:
    """Runs that differ only in their seed."""

    label: str
    words: str  # its options as they are typed on the command line
    options: Options  # the options in which it differs from others, without the seed
    seeds: Mapping[str, int]  # seed -> the index of its latest run in the group, in the order of the seeds
    repeats: int  # number of earlier runs with the same seeds, which are not counted


@dataclass(frozen=True)
class Group:
    """The runs of one protocol. Lists have one entry per run, in the order of `runs`."""

    name: str
    conditions: dict[str, str]
    members: list[int]  # the index of each run in the whole report
    runs: list[Run]
    options: list[Options]
    names: list[str]  # the names of the options that differ
    usual: Options
    labels: list[str]
    numbers: list[dict[str, float]]
    measures: list[Measure]
    stages: list[str]  # in their order
    compositions: list[Composition]

    def better(self, name: str) -> Better | None:
        """The direction of the measure whose name ends in `name`; None where no run of the group declares one."""
        return next((measure.better for measure in self.measures if measure.name.endswith(name)), None)


def gather(runs: Sequence[Run]) -> list[Group]:
    """The groups of the runs, one per protocol, the one with the most runs first."""
    return [
        _group(_letter(i), conditions, members, [runs[member] for member in members])
        for i, (conditions, members) in enumerate(protocol.groups(runs))
    ]


def _group(name: str, conditions: dict[str, str], members: list[int], runs: list[Run]) -> Group:
    rows = options.tables(runs)
    names = options.differing(runs, rows)
    usual = options.usual(rows, names)
    numbers = [measured(run) for run in runs]
    labels = _distinct([options.label(row, names, usual) for row in rows], runs)
    found = _compositions(rows, names, usual)
    told = measures(runs), stages(runs)
    return Group(name, conditions, members, runs, rows, names, usual, labels, numbers, *told, found)


def _compositions(rows: Sequence[Options], names: Sequence[str], usual: Options) -> list[Composition]:
    plain = [name for name in names if not options.is_seed(name)]
    seeded = list(dict.fromkeys(["calibration.seed", "seed", *(name for name in names if options.is_seed(name))]))
    found: dict[tuple[str | None, ...], list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault(tuple(row.get(name) for name in plain), []).append(i)
    compositions = []
    for members in found.values():
        # The runs are in the order of time, so the latest run of a seed remains.
        seeds = {", ".join(rows[i][name] for name in seeded if name in rows[i]): i for i in members}
        row = {name: rows[members[0]][name] for name in plain if name in rows[members[0]]}
        compositions.append(
            Composition(
                options.label(row, plain, usual) or "all runs",
                options.words(row, plain, usual),
                row,
                dict(sorted(seeds.items(), key=lambda item: (len(item[0]), item[0]))),
                len(members) - len(seeds),
            )
        )
    return compositions


def _distinct(labels: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The labels made unique: equal ones get the time of the run, or its folder if the times are equal too."""
    times = [run.time[:16].replace("T", " ") for run in runs]
    for additions in (times, [run.where for run in runs]):
        counts = Counter(labels)
        labels = [
            label if label and counts[label] == 1 else " · ".join(filter(None, [label, addition]))
            for label, addition in zip(labels, additions, strict=True)
        ]
    return list(labels)


def _letter(i: int) -> str:
    return ascii_uppercase[i] if i < len(ascii_uppercase) else f"{ascii_uppercase[i % 26]}{i // 26}"

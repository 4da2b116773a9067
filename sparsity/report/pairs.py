"""The comparison of two runs: paired differences on the same windows (NLL, and divergence from the dense model), and on the same
lm-eval documents.

Such an interval holds for these two pruned models on other text. A claim about two *methods* needs several seeds: see seeds.py.

All runs of one protocol are compared with one another. Pairs of equal sparsity and seed come first, and among these the lowest
perplexities. Holm's adjustment is over a family: all pairs of one sparsity and seed, or all pairs that differ in one of them. A
bootstrap with R series gives no p below 1 / (R + 1), so R = 20 * (size of the family) is needed for significance. The work grows
with the square of that size. Pairs beyond BUDGET are not computed, and the page says so.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ..comparison import Interval, holm, paired_accuracy, paired_difference, verdict
from ..measures import Better
from .gather import Group
from .measures import PERPLEXITY
from .read import Row, Run, number

BUDGET = 200_000_000  # windows drawn in all pairs together; about 5 s
DOCUMENT_PAIRS = 1_000  # number of comparisons of accuracies; about 2 ms each
REPEATS = 2_000
LEVEL = 20  # 1 / (1 - confidence)
DIFFERENT = "differing sparsities or seeds"

# (document, its hash) -> right or wrong; (window, its tokens) -> nats per token
Answers = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Kind:
    """The kind of values that are compared: a column with a value per window, or right and wrong answers to documents."""

    what: str  # as a menu names it: "perplexity", or the task and its metric
    heading: str
    units: str  # the items with a value each: windows or documents
    unit: str  # of a difference b - a: "ratio" (the logarithm of one), "nats" or "fraction"
    better: Better | None  # as in the measure


@dataclass(frozen=True)
class Series:
    """A table with a value for each window of the text, and the measure that is made of them."""

    what: str
    heading: str
    table: str
    column: str
    unit: str
    measure: str  # the end of its name

    def kind(self, group: Group) -> Kind:
        return Kind(self.what, self.heading, "windows", self.unit, group.better(self.measure))


SERIES = (
    Series("perplexity", "perplexity of b relative to a", "windows", "nll_pruned", "ratio", "perplexity.pruned"),
    Series("divergence", "divergence from the dense model per token", "divergence", "kl", "nats", ".kl"),
)


@dataclass(frozen=True)
class Pair:
    """`interval` is of b - a, in the unit of its kind. `a` has the lower perplexity."""

    a: int  # indices in the group
    b: int
    kind: Kind
    interval: Interval
    adjusted: float  # p after Holm's adjustment over `family`
    family: str  # its name: the sparsity and seed, or DIFFERENT
    size: int  # the number of pairs in the family

    def winner(self, alone: bool = False) -> str | None:
        """ "a" or "b"; None where the difference is not certain, or nobody knows which direction is better."""
        better = self.kind.better
        return better and verdict(self.interval, better, None if alone else self.adjusted)

    @property
    def what(self) -> str:
        return self.kind.what


@dataclass(frozen=True)
class Pairs:
    """All comparisons in a group."""

    found: list[Pair]
    possible: int  # number of pairs of runs that measured the same windows
    compared: int  # number of these that were computed


def compare(group: Group) -> Pairs:
    """All comparisons between the latest runs of a group."""
    seeds = {i: seed for composition in group.compositions for seed, i in composition.seeds.items()}
    order = sorted(
        seeds, key=lambda i: (value if (value := group.numbers[i].get(PERPLEXITY)) is not None else math.inf, i)
    )
    several = len(set(seeds.values())) > 1

    def family(a: int, b: int) -> str:
        asked = {round(value, 4) for i in (a, b) if (value := group.numbers[i].get("sparsity.asked")) is not None}
        if len(asked) != 1 or seeds[a] != seeds[b]:
            return DIFFERENT
        return f"sparsity {100 * asked.pop():g} %" + (f", seed {seeds[a]}" if several else "")

    families = {pair: family(*pair) for pair in combinations(order, 2)}
    rank = {i: place for place, i in enumerate(order)}  # 0 for the lowest perplexity
    both = sorted(families, key=lambda pair: (families[pair] == DIFFERENT, rank[pair[1]], rank[pair[0]]))

    series = {one.kind(group): {i: _series(group.runs[i], one.table, one.column) for i in order} for one in SERIES}
    able = [(a, b) for a, b in both if any(_alike(known[a], known[b]) for known in series.values())]
    longest = max((sum(len(known[i]) for known in series.values()) for i in order), default=0)
    chosen = able[: affordable([families[pair] for pair in able], longest)]
    sizes = Counter(families[pair] for pair in chosen)
    found = [
        Pair(a, b, kind, _windows(known[a], known[b], repeats(sizes[families[a, b]])), 1.0, families[a, b], 0)
        for kind, known in series.items()
        for a, b in chosen
        if _alike(known[a], known[b])
    ]
    answers = {i: _answers(group.runs[i].tables["documents"]) for i in order}
    accuracies: list[Pair] = []
    for a, b in both:
        for task, metric in sorted(answers[a].keys() & answers[b].keys()) if len(accuracies) < DOCUMENT_PAIRS else ():
            if _alike(one := answers[a][task, metric], other := answers[b][task, metric]):
                named, better = f"{task} {metric}", group.better(f".pruned.{task}.{metric}")
                kind = Kind(named, named, "documents", "fraction", better)
                accuracies.append(Pair(a, b, kind, _documents(one, other), 1.0, families[a, b], 0))
    return Pairs(_adjusted([*found, *accuracies]), len(able), len(chosen))


def repeats(size: int) -> int:
    """The number of bootstrap series for each pair of a family with `size` pairs."""
    return max(REPEATS, LEVEL * size)


def affordable(families: Sequence[str], windows: int) -> int:
    """The number of pairs, from the first, that BUDGET allows.

    `families`: the family of each pair; `windows`: the number of windows of a run, in all its measures.
    """
    sizes, work = Counter[str](), 0
    for count, family in enumerate(families):
        before, sizes[family] = sizes[family], sizes[family] + 1
        work += windows * (sizes[family] * repeats(sizes[family]) - before * repeats(before))
        if work > BUDGET:
            return count
    return len(families)


def _series(run: Run, table: str, column: str) -> Answers:
    return {(row.get("window", ""), row.get("tokens", "")): float(row[column]) for row in run.tables[table]}


def _alike(a: Answers, b: Answers) -> bool:
    """True if two runs have values for the same windows or documents, at least two of them."""
    return a.keys() == b.keys() and len(a) >= 2


def _windows(a: Answers, b: Answers, repeats: int) -> Interval:
    a_N, b_N = np.asarray([list(a.values()), [b[window] for window in a]], dtype=np.float64)
    # The seed is a hash of the values, so that the same two runs have the same interval in every report.
    digest = hashlib.sha256(a_N.tobytes() + b_N.tobytes()).digest()
    return paired_difference(a_N, b_N, np.random.default_rng(list(digest)), repeats=repeats)


def _documents(a: Answers, b: Answers) -> Interval:
    return paired_accuracy([a[document] for document in a], [b[document] for document in a])


def _answers(rows: Sequence[Row]) -> dict[tuple[str, str], Answers]:
    """The pruned model's answers, by task and metric, for all metrics with only the values right (1) and wrong (0)."""
    found: dict[tuple[str, str], Answers] = {}
    for row in rows:
        for column in row:
            metric = column.removesuffix("_pruned")
            value = number(row[column]) if metric != column else None
            if value is not None:
                found.setdefault((row.get("task", ""), metric), {})[
                    row.get("document", ""), row.get("doc_hash", "")
                ] = value
    return {task: answers for task, answers in found.items() if set(answers.values()) <= {0.0, 1.0}}


def _adjusted(pairs: Sequence[Pair]) -> list[Pair]:
    families: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(pairs):
        families.setdefault((pair.what, pair.family), []).append(place)
    result = list(pairs)
    for members in families.values():
        for place, adjusted in zip(members, holm([pairs[i].interval.p for i in members]), strict=True):
            result[place] = replace(pairs[place], adjusted=adjusted, size=len(members))
    return result


def tasks(rows: Sequence[Row]) -> Iterator[tuple[str, str, int, float]]:
    """Task and metric, a digest of its documents, their number and the share that the pruned model answers rightly."""
    for (task, metric), answers in _answers(rows).items():
        digest = hashlib.sha256(repr(sorted(answers)).encode()).hexdigest()[:12]
        yield f"{task} {metric}", digest, len(answers), sum(answers.values()) / len(answers)

"""The values and interfaces that everything else is written in.

Shape letters   B sequences   T tokens   N = B*T   V vocabulary   I inputs   O outputs   G groups   M members of a group
                J neurons   R rows of a grouping (documents, topics)   E width of an embedding   L levels of sparsity
Polarity        `keep` marks survivors (True survives).   Scores: the larger survives.
Words           `scope`: within what a criterion's scores may be compared.   `sparsity`: the fraction removed, in [0, 1).

A *method* says what it must know (`needs`) and which weights survive; a *pattern* says which masks are allowed; a *corrector*
says what the survivors become. None of them holds a tensor: they are frozen values, and `repr` of one is its configuration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, TypeVarTuple, cast, final

import torch
from torch import Tensor

from .processes import ALONE, Processes
from .ranges import UserError as UserError

S = TypeVar("S")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")

Scope = Literal["row", "layer"]
Role = Literal["attention", "mlp", "head"]
Side = Literal["input", "output"]


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neurons:
    """The neurons that a layer's weight belongs to, one to each of its rows or columns, and the modules whose activations they are.

    Modules are full names. An MLP's neurons are the inputs of its down projection: rows of gate and up, columns of down. The
    outputs of a query, key or value projection are its own neurons (rows), the inputs of the output projection are its (columns).
    """

    axis: Literal["row", "column"]
    count: int  # a fused projection has several rows to a neuron: row r belongs to neuron r mod count
    module: str
    side: Side  # of the module, where the neurons' activations are seen
    gate: str | None = None  # the module whose outputs, the first `count` of them, go into the activation function
    activation: str | None = None  # the activation function's own module


@dataclass(frozen=True, order=True)
class Site:
    """Where a linear layer lives. Hashable, printable, holds no tensor."""

    block: int  # index of the decoder block, from 0; the head's is the number of blocks
    name: str  # the model's own full name: "model.layers.3.mlp.down_proj"
    role: Role
    neurons: Neurons | None = field(default=None, compare=False, repr=False)  # None: not understood

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Layer:
    """A site and its dense weight (O, I), in the model's dtype."""

    site: Site
    weight_OI: Tensor


@dataclass(frozen=True)
class Pruned:
    """What a method made of a layer. `facts` are numbers worth a column in the layer table, such as the damping that was used.

    The engine compares the mask with what was asked: as many weights go, to less than one a row, which whole weights of a row
    make. A method whose own rule removes fewer or more than that says how many.
    """

    weight_OI: Tensor
    keep_OI: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)
    fewer: int = 0  # weights of the layer, such as the remainders of blocks
    more: int = 0  # such as those of inputs that were always zero
    nan: Tensor | None = None  # whether a score was NaN: a scalar where the scores are, which the engine reads


@dataclass(frozen=True)
class Corrected:
    """What a corrector made of the survivors. `facts` become columns `corrector_...` of the layer table."""

    weight_OI: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tap(Generic[S]):
    """A statistic, and the module of the layer's block whose activations it folds. The tap that asks for a state reads it."""

    statistic: Statistic[S]
    of: str | None = None  # the module's full name; None: the layer itself
    side: Side = "input"

    def source(self, site: Site) -> tuple[str, Side]:
        return self.of or site.name, self.side

    def __str__(self) -> str:
        where = "" if self.of is None and self.side == "input" else f" of {self.of or 'its'} {self.side}"
        return f"{self.statistic}{where}"


@dataclass
class Folded:
    """One statistic's state, shared by every layer that saw exactly the same tensors, and what was derived from it."""

    state: Any
    derived: dict[tuple[Any, ...], Any] = field(default_factory=dict)


@dataclass
class Stats:
    """The states that one site asked for, indexed by the taps that asked, and which of them were read."""

    site: Site
    folded: Mapping[Tap[Any], Folded] = field(default_factory=dict)
    read: set[Tap[Any]] = field(default_factory=set)
    processes: Processes = ALONE  # that have the same states, and share the layer's rows among them

    def _at(self, tap: Tap[Any]) -> Folded:
        if tap not in self.folded:
            declared = ", ".join(map(str, self.folded)) or "nothing"
            raise KeyError(f"{self.site.name} read {tap}, which needs() did not declare; declared: {declared}")
        self.read.add(tap)
        return self.folded[tap]

    def __getitem__(self, tap: Tap[S]) -> S:
        return cast(S, self._at(tap).state)

    def derived(self, tap: Tap[S], derive: Callable[[S, *Ts], D], *arguments: *Ts) -> D:
        """`derive(state, *arguments)`, computed once for all layers that share the state: the factor of q, k and v, for example.

        Equal callables with equal arguments share the result. A bound method of a frozen value is equal to itself, a fresh
        lambda never is.
        """
        folded = self._at(tap)
        if (derive, arguments) not in folded.derived:
            folded.derived[derive, arguments] = derive(folded.state, *arguments)
        return cast(D, folded.derived[derive, arguments])

    def by_rows(self, compute: Callable[..., tuple[Tensor, ...]], height: int, *whole_OI: Tensor) -> tuple[Tensor, ...]:
        """What `compute` makes of panels of at most `height` rows, joined: for rows that are problems of their own.

        Every process goes through its share of them, so `compute` may see no row, and writes into nothing but its results.
        """
        rows = len(whole_OI[0])
        mine = self.processes.part(rows)
        panels = zip(*(part_OI[mine].split(height) for part_OI in whole_OI), strict=True)
        done = zip(*(compute(*panel) for panel in panels), strict=True)
        return tuple(self.processes.joined(torch.cat(parts), rows) for parts in done)

    def keep(self, pattern: Pattern, score_PI: Tensor, scope: Scope, rows: int) -> Tensor:
        """`pattern.keep` for `by_rows`: of a panel, or where the scope compares all `rows` of the layer, of a whole share."""
        if scope == "row" or pattern.group is not None:
            return pattern.keep(score_PI, scope)
        return pattern.keep(self.processes.joined(score_PI, rows), scope)[self.processes.part(rows)]


# --- interfaces -------------------------------------------------------------------------------------------------------


class Grouping(Protocol):
    """Which calibration tokens belong together: every token in one row, every row holding a token. A frozen, hashable value."""

    def rows(self, sequences: int, seqlen: int) -> int:
        """At most so many rows, known before the text is."""
        ...

    def labels(self, ids_BT: Tensor, embedding_VE: Tensor) -> Tensor:
        """The row (B, T) of each token, int64 from 0 without gaps. `embedding_VE`: the model's token embeddings."""
        ...


class Statistic(Protocol[S]):
    """A left fold over activations: a frozen, hashable value that holds no data. Equal statistics share one state."""

    @property
    def grouping(self) -> Grouping | None:
        """What keeps tokens apart in the state; None where they are all alike."""
        ...

    def zero(self, x_BTI: Tensor, rows: int) -> S:
        """The state of no token, on the device of `x_BTI`. `rows` of the grouping, 0 without one."""
        ...

    def add(self, state: S, x_BTI: Tensor, labels_BT: Tensor | None) -> S:
        """Fold in one batch. May write into `state`: a second Gram per batch would double the memory.

        `labels_BT`: the tokens' rows, None without a grouping.
        """
        ...

    def merge(self, a: S, b: S) -> S:
        """fold(x ++ y) == merge(fold(x), fold(y)). Writes into neither."""
        ...

    def finite(self, state: S) -> bool:
        """False if a NaN or an infinity went into the fold."""
        ...


class Pattern(Protocol):
    """Which masks are allowed, and which allowed mask keeps the largest scores."""

    @property
    def sparsity(self) -> float:
        """The fraction of every layer that this pattern asks to remove, in [0, 1)."""
        ...

    @property
    def group(self) -> int | None:
        """How many consecutive inputs constrain one another (the m of n-of-m); None where any inputs may."""
        ...

    def check(self, layer: Layer) -> None:
        """Raise `UserError`, naming the site, if no mask of this pattern fits the layer."""
        ...

    def keep(self, score_OI: Tensor, scope: Scope) -> Tensor:
        """The mask (O, I) of the best scores. Among equal scores the lower index is removed first."""
        ...

    def at(self, share: Fraction) -> Pattern:
        """The same pattern removing this fraction. Raises `UserError` where the pattern leaves no choice."""
        ...

    def partly(self, share: float) -> Pattern:
        """The same with that share, in [0, 1], of its removals: 0 keeps all, 1 is this pattern. For gradual methods."""
        ...


class Method(Protocol):
    """Choose the weights that survive (and, if it must, change them on the way)."""

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        """Raise `UserError` if these sites cannot be served under this pattern; log what its user would want to know."""
        ...

    def needs(self, site: Site) -> Collection[Tap[Any]]: ...

    def asked(self, site: Site, pattern: Pattern) -> float:
        """The fraction that will be asked of this site: `pattern.sparsity`, unless the method leaves the site alone."""
        ...

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned: ...


class Corrector(Protocol):
    """Given the dense layer and the mask, choose the survivors' values. The support never grows, the layer loss never rises."""

    def needs(self, site: Site) -> Collection[Tap[Any]]: ...

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Corrected: ...


class Model(Protocol):
    """What an evaluator may do with a model."""

    @property
    def model(self) -> Any:
        """The transformers model itself, for what takes it whole; to be left as it was found."""
        ...

    @property
    def tokenizer(self) -> Any:
        """None where the model was given none."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes now."""
        ...

    def logits(self, ids_BT: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of ids on any device."""
        ...

    def logits_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The same of each of some batches (B, T), of equal size but for the last. To be asked for once for a whole text: a model
        that is read block by block is then read once."""
        ...

    def hidden_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The hidden states (B, T, I) behind the last block, likewise."""
        ...

    def outside(self) -> Mapping[str, Tensor]:
        """The parameters outside the blocks, by name, but for token embeddings that the head does not share."""
        ...

    def head(self, ids_BT: Tensor, hidden_BTI: Tensor, outside: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits (B, T, V) that these hidden states behind the last block become, position by position.

        `outside`: another model's parameters outside the blocks, in the place of this one's and on its device.
        """
        ...

    def culprit(self, ids_BT: Tensor) -> str:
        """The first module whose output on these ids holds a NaN or an infinity, for a message."""
        ...


@dataclass(frozen=True)
class Measured:
    """What an evaluator found: a `summary` for result.json, and one row per window or document for `<table>.csv`."""

    summary: Mapping[str, Any]
    table: str
    rows: list[dict[str, Any]]


class Evaluator(Protocol):
    """Sees the dense model before pruning and the pruned one after."""

    @property
    def reads_text(self) -> bool:
        """Whether it measures on the dataset's evaluation text. Otherwise its `ids_N` may be empty."""
        ...

    @property
    def remembers(self) -> bool:
        """Whether `reference` may come from an earlier run, filed under model, `repr`, `files` and, if it reads it, text."""
        ...

    @property
    def streams(self) -> bool:
        """Whether a model that is read block by block will do: it asks for `logits_of`, `hidden_of`, `outside` and `head` alone."""
        ...

    def files(self) -> Sequence[Path]:
        """The files of this machine that it reads besides the evaluation text."""
        ...

    def check(self, ids_N: Tensor) -> None:
        """Raise `UserError` for every mistake that shows before a forward pass, such as too short a text."""
        ...

    def reference(self, dense: Model, ids_N: Tensor) -> Mapping[str, Tensor]:
        """What must be remembered of the dense model, on the CPU."""
        ...

    def compare(self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor]) -> Measured: ...


class Criterion(ABC):
    """A `Method` that scores every weight once. The only base class of the project: write `scope`, `needs` and `score`."""

    scope: Scope

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:  # noqa: B027 (a default, not an omission)
        """Any layer has weights to score."""

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        return ()

    @final
    def asked(self, site: Site, pattern: Pattern) -> float:
        return pattern.sparsity

    @abstractmethod
    def score(self, layer: Layer, stats: Stats) -> Tensor:
        """Scores (O, I), comparable within `scope`; any floating dtype; no NaN."""

    def facts(self, layer: Layer, stats: Stats) -> Mapping[str, float]:
        """Numbers about the scores that deserve a column in the layer table."""
        return {}

    @final
    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        score_OI = self.score(layer, stats)
        keep_OI = pattern.keep(score_OI, self.scope)
        # a third of the time of filling; -1.0 * False is -0.0, equal to zero but not the same bits, and -0.0 + 0 is
        weight_OI = (layer.weight_OI * keep_OI).add_(0)
        return Pruned(weight_OI, keep_OI, self.facts(layer, stats), nan=score_OI.max().isnan())  # a NaN is the largest


def distinct(taps: Iterable[Tap[Any]]) -> tuple[Tap[Any], ...]:
    """The taps without repetitions, in their order."""
    return tuple(dict.fromkeys(taps))

"""The values and interfaces that everything else is written in.

Shape letters   B sequences   T tokens   N = B*T   V vocabulary   I inputs   O outputs   G groups   M members of a group
Polarity        `keep` marks survivors (True survives).   Scores: the larger survives.
Words           `scope`: within what a criterion's scores may be compared.   `sparsity`: the fraction removed, in [0, 1).

A *method* says what it must know (`needs`) and which weights survive; a *pattern* says which masks are allowed; a *corrector*
says what the survivors become. None of them holds a tensor: they are frozen values, and `repr` of one is its configuration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, cast, final

from torch import Tensor

S = TypeVar("S")
D = TypeVar("D")

Scope = Literal["row", "layer"]
Role = Literal["attention", "mlp"]


class UserError(ValueError):
    """A mistake that the user can mend: the message says what was got, what was expected, and what to do."""


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Site:
    """Where a linear layer lives. Hashable, printable, holds no tensor."""

    block: int  # index of the decoder block, from 0
    name: str  # the model's own full name: "model.layers.3.mlp.down_proj"
    role: Role

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
    """What a method made of a layer. `facts` are numbers worth a column in the layer table, such as the damping that was used."""

    weight_OI: Tensor
    keep_OI: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Corrected:
    """What a corrector made of the survivors. `facts` become columns `corrector_...` of the layer table."""

    weight_OI: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tap(Generic[S]):
    """A statistic of the input of the layer being pruned. The tap that asks for a state is the key that reads it."""

    statistic: Statistic[S]


@dataclass
class Folded:
    """One statistic's state, shared by every layer that saw exactly the same tensors, and what was derived from it."""

    state: Any
    derived: dict[Callable[..., Any], Any] = field(default_factory=dict)


@dataclass
class Stats:
    """The states that one site asked for, indexed by the taps that asked, and which of them were read."""

    site: Site
    folded: Mapping[Tap[Any], Folded] = field(default_factory=dict)
    read: set[Tap[Any]] = field(default_factory=set)

    def _at(self, tap: Tap[Any]) -> Folded:
        if tap not in self.folded:
            declared = ", ".join(map(str, self.folded)) or "nothing"
            raise KeyError(f"{self.site.name} read {tap}, which needs() did not declare; declared: {declared}")
        self.read.add(tap)
        return self.folded[tap]

    def __getitem__(self, tap: Tap[S]) -> S:
        return cast(S, self._at(tap).state)

    def derived(self, tap: Tap[S], derive: Callable[[S], D]) -> D:
        """`derive(state)`, computed once for all layers that share the state: the Cholesky factor of q, k and v, for example.

        Equal callables share the result. A bound method of a frozen value is equal to itself, a fresh lambda never is.
        """
        folded = self._at(tap)
        if derive not in folded.derived:
            folded.derived[derive] = derive(folded.state)
        return cast(D, folded.derived[derive])


# --- interfaces -------------------------------------------------------------------------------------------------------


class Statistic(Protocol[S]):
    """A left fold over activations: a frozen, hashable value that holds no data. Equal statistics share one state."""

    def zero(self, x_BTI: Tensor) -> S:
        """The state of no token, on the device of `x_BTI`."""
        ...

    def add(self, state: S, x_BTI: Tensor) -> S:
        """Fold in one batch. May write into `state`: a second Gram per batch would double the memory."""
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


class Method(Protocol):
    """Choose the weights that survive (and, if it must, change them on the way)."""

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

    def logits(self, ids_BT: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of ids on any device."""
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

    def check(self, ids_N: Tensor) -> None:
        """Raise `UserError` if the evaluation text cannot serve."""
        ...

    def reference(self, dense: Model, ids_N: Tensor) -> Mapping[str, Tensor]:
        """What must be remembered of the dense model. Cached by model, text and `repr` of the evaluator."""
        ...

    def compare(self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor]) -> Measured: ...


class Criterion(ABC):
    """A `Method` that scores every weight once. The only base class of the project: write `scope`, `needs` and `score`."""

    scope: Scope

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        return ()

    @final
    def asked(self, site: Site, pattern: Pattern) -> float:
        return pattern.sparsity

    @abstractmethod
    def score(self, layer: Layer, stats: Stats) -> Tensor:
        """Scores (O, I), comparable within `scope`; any floating dtype; no NaN."""

    @final
    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        keep_OI = pattern.keep(self.score(layer, stats), self.scope)
        return Pruned(layer.weight_OI * keep_OI, keep_OI)


def distinct(taps: Iterable[Tap[Any]]) -> tuple[Tap[Any], ...]:
    """The taps without repetitions, in their order."""
    return tuple(dict.fromkeys(taps))

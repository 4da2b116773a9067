"""The values and interfaces that all other modules share.

Shape letters   B sequences   T tokens   N = B*T   V vocabulary   I inputs   O outputs   G groups   M members of a group
                J neurons   R rows of a grouping (documents, topics)   E width of an embedding   L levels of sparsity
Polarity        `keep` marks survivors (True survives).   Scores: the larger survives.
Words           `scope`: the weights whose scores are compared, a row or the layer.   `sparsity`: the fraction removed, in [0, 1).

A *method* declares the statistics that it needs and chooses the mask; a *pattern* says which masks are allowed; a *corrector*
computes new values for the survivors. None of them holds a tensor: they are frozen values, and `repr` shows their configuration.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Generic, Literal, Protocol, TypeVar, TypeVarTuple, cast, final

import torch
from torch import Tensor

from .processes import ALONE, Processes
from .user_error import UserError as UserError

S = TypeVar("S")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")

Scope = Literal["row", "layer"]
Role = Literal["attention", "mlp", "head"]
Side = Literal["input", "output"]


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neurons:
    """The neurons of a layer, one for each row or column of its weight, and the modules that hold their activations.

    Modules are given by full name. The neurons of an MLP are the inputs of its down projection: rows of gate and up, columns of
    down. Those of a query, key or value projection are its outputs (rows), those of the output projection its inputs (columns).
    """

    axis: Literal["row", "column"]
    count: int  # a fused projection has several rows per neuron: row r belongs to neuron r mod count
    module: str
    side: Side  # the side of the module on which the neurons' activations are seen
    gate: str | None = None  # the module whose first `count` outputs go into the activation function
    activation: str | None = None  # the module of the activation function


@dataclass(frozen=True, order=True)
class Site:
    """The place of a linear layer in the model. Hashable and printable; holds no tensor."""

    block: int  # index of the decoder block, from 0; for the output head, the number of blocks
    name: str  # the layer's full name in the model: "model.layers.3.mlp.down_proj"
    role: Role
    neurons: Neurons | None = field(default=None, compare=False, repr=False)  # None: this architecture's are not known

    @property
    def leaf(self) -> str:
        """The last part of the name: "down_proj"."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Layer:
    """A site and its dense weight (O, I), in the model's dtype."""

    site: Site
    weight_OI: Tensor


@dataclass(frozen=True)
class Pruned:
    """The result of a method: weight (O, I) and mask (O, I). `facts` are columns of the layer table, such as the damping used.

    The engine compares the mask with the requested sparsity. They may differ by less than one weight per row, and by the numbers
    of weights in `fewer` and `more`, if the method's own rule removes fewer or more.
    """

    weight_OI: Tensor
    keep_OI: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)
    fewer: int = 0  # weights of the layer, such as the remainders of blocks
    more: int = 0  # such as those of inputs that were always zero
    nan: Tensor | None = None  # whether a score was NaN: a scalar where the scores are, which the engine reads


@dataclass(frozen=True)
class Corrected:
    """The result of a corrector: the weight (O, I). `facts` become columns `corrector_...` of the layer table."""

    weight_OI: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tap(Generic[S]):
    """A statistic and the module in the layer's block whose activations it folds. `Stats` is indexed by the tap."""

    statistic: Statistic[S]
    of: str | None = None  # the module's full name; None: the layer itself
    side: Side = "input"

    def source(self, site: Site) -> tuple[str, Side]:
        """The full name of the tapped module, and its side."""
        return self.of or site.name, self.side

    def __str__(self) -> str:
        where = "" if self.of is None and self.side == "input" else f" of {self.of or 'its'} {self.side}"
        return f"{self.statistic}{where}"


@dataclass
class Folded:
    """The state of one statistic, shared by all layers that saw exactly the same tensors, and the values derived from it."""

    state: Any
    derived: dict[tuple[Any, ...], Any] = field(default_factory=dict)


@dataclass
class Stats:
    """The states that one site asked for, indexed by tap. `read` holds the taps that were used."""

    site: Site
    folded: Mapping[Tap[Any], Folded] = field(default_factory=dict)
    read: set[Tap[Any]] = field(default_factory=set)
    processes: Processes = ALONE  # all hold the same states, and each computes a part of the layer's rows

    def _at(self, tap: Tap[Any]) -> Folded:
        if tap not in self.folded:
            declared = ", ".join(map(str, self.folded)) or "nothing"
            raise KeyError(f"{self.site.name} read {tap}, which needs() did not declare; declared: {declared}")
        self.read.add(tap)
        return self.folded[tap]

    def __getitem__(self, tap: Tap[S]) -> S:
        return cast(S, self._at(tap).state)

    def derived(self, tap: Tap[S], derive: Callable[[S, *Ts], D], *arguments: *Ts) -> D:
        """`derive(state, *arguments)`, computed once for all layers that share the state, such as one factor for q, k and v.

        Equal callables with equal arguments share the result. Pass no new lambda: it is never equal to another one.
        """
        folded = self._at(tap)
        if (derive, arguments) not in folded.derived:
            folded.derived[derive, arguments] = derive(folded.state, *arguments)
        return cast(D, folded.derived[derive, arguments])

    def by_rows(self, compute: Callable[..., tuple[Tensor, ...]], height: int, *whole_OI: Tensor) -> tuple[Tensor, ...]:
        """The results of `compute` on panels of at most `height` rows, joined. For problems that are independent row by row.

        Every process computes its share of the rows, which may be empty. `compute` must not write into its arguments.
        """
        rows = len(whole_OI[0])
        mine = self.processes.part(rows)
        panels = zip(*(part_OI[mine].split(height) for part_OI in whole_OI), strict=True)
        done = zip(*(compute(*panel) for panel in panels), strict=True)
        return tuple(self.processes.joined(torch.cat(parts), rows) for parts in done)

    def keep(self, pattern: Pattern, score_PI: Tensor, scope: Scope, rows: int) -> Tensor:
        """The mask (P, I) of P rows, for use in `by_rows`; of all this process's rows if the scope compares the layer's `rows`."""
        if scope == "row" or pattern.group is not None:
            return pattern.keep(score_PI, scope)
        return pattern.keep(self.processes.joined(score_PI, rows), scope)[self.processes.part(rows)]


# --- interfaces -------------------------------------------------------------------------------------------------------


class Grouping(Protocol):
    """A division of the calibration tokens into rows. Every token is in one row, no row is empty. A frozen, hashable value."""

    def rows(self, sequences: int, seqlen: int) -> int:
        """An upper bound of the number of rows, known before the text is read."""
        ...

    def labels(self, ids_BT: Tensor, embedding_VE: Tensor) -> Tensor:
        """The row (B, T) of each token, int64 from 0 without gaps. `embedding_VE`: the model's token embeddings."""
        ...


class Statistic(Protocol[S]):
    """A left fold over activations: a frozen, hashable value that holds no data. Equal statistics share one state."""

    @property
    def grouping(self) -> Grouping | None:
        """The grouping by which the state separates tokens; None if it treats all tokens alike."""
        ...

    def zero(self, x_BTI: Tensor, rows: int) -> S:
        """The state before any token, on the device of `x_BTI`. `rows`: the number of rows of the grouping, 0 without one."""
        ...

    def add(self, state: S, x_BTI: Tensor, labels_BT: Tensor | None) -> S:
        """The state with one batch folded in. May write into `state`: a second Gram per batch would double the memory.

        `labels_BT`: each token's row of the grouping; None without a grouping.
        """
        ...

    def merge(self, a: S, b: S) -> S:
        """The state of two parts of the text: merge(fold(x), fold(y)) == fold(x ++ y). Must not write into `a` or `b`."""
        ...

    def finite(self, state: S) -> bool:
        """False if a NaN or an infinity was folded in."""
        ...


class Pattern(Protocol):
    """The masks that are allowed, and the choice of the allowed mask that keeps the largest scores."""

    @property
    def sparsity(self) -> float:
        """The fraction of weights that this pattern removes from every layer, in [0, 1)."""
        ...

    @property
    def group(self) -> int | None:
        """The m of n-of-m: the number of consecutive inputs that constrain one another; None without such groups."""
        ...

    def check(self, layer: Layer) -> None:
        """Raise `UserError` with the layer's name if no mask of this pattern fits the layer."""
        ...

    def keep(self, score_OI: Tensor, scope: Scope) -> Tensor:
        """The mask (O, I) that keeps the largest scores. Among equal scores the lower index is removed first."""
        ...

    def at(self, share: Fraction) -> Pattern:
        """This pattern with `share` as its sparsity. Raises `UserError` if the pattern allows only one sparsity."""
        ...

    def partly(self, share: float) -> Pattern:
        """This pattern with `share`, in [0, 1], of its removals: 0 keeps all weights, 1 is this pattern. For gradual methods."""
        ...


class Method(Protocol):
    """Chooses the weights that survive. A method may also change them while it chooses."""

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        """Raise `UserError` if the method cannot prune these sites with this pattern. Logs what the user should know."""
        ...

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        """The statistics that `prune` reads for this site."""

    def asked(self, site: Site, pattern: Pattern) -> float:
        """The fraction of this site that `prune` will remove: `pattern.sparsity`, or 0 if the method leaves the site dense."""
        ...

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        """The layer's mask, and its weight with zeros where the mask is False."""


class Corrector(Protocol):
    """Computes new values for the survivors, from the dense layer and the mask. The mask stays; the layer loss never rises."""

    def needs(self, site: Site) -> Collection[Tap[Any]]: ...

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Corrected:
        """The layer's weight with new values where the mask is True and zeros elsewhere."""


class Criterion(ABC):
    """A `Method` that scores every weight once, and keeps the largest scores. Subclasses write `scope`, `score` and `needs`."""

    scope: Scope

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:  # noqa: B027 (a default, not an omission)
        """Accepts every layer: every weight has a score."""

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        return ()

    @final
    def asked(self, site: Site, pattern: Pattern) -> float:
        return pattern.sparsity

    @abstractmethod
    def score(self, layer: Layer, stats: Stats) -> Tensor:
        """Scores (O, I), comparable within `scope`; any floating dtype; no NaN."""

    def facts(self, layer: Layer, stats: Stats) -> Mapping[str, float]:
        """Numbers about the scores, for columns of the layer table."""
        return {}

    @final
    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        score_OI = self.score(layer, stats)
        keep_OI = pattern.keep(score_OI, self.scope)
        # a third of the time of filling; -1.0 * False is -0.0, equal to zero but not the same bits, and -0.0 + 0 is
        weight_OI = (layer.weight_OI * keep_OI).add_(0)
        return Pruned(weight_OI, keep_OI, self.facts(layer, stats), nan=score_OI.max().isnan())  # a NaN is the largest


def distinct(taps: Iterable[Tap[Any]]) -> tuple[Tap[Any], ...]:
    """The taps without repetitions, in the order of their first occurrence."""
    return tuple(dict.fromkeys(taps))


def solving(component: object, site: Site, outputs: int, inputs: int) -> float:
    """The products (O, I) (I, I) that a method or a corrector makes for a layer at most, as it says itself in `products`.

    0 for a component that does not say: a score costs less than the statistics that it reads.
    """
    says: Callable[[Site, int, int], float] | None = getattr(component, "products", None)
    return says(site, outputs, inputs) if says else 0.0

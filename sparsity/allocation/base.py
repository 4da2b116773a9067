"""The interface of an allocation: it turns one pattern into a pattern for each layer. The patterns differ only in their sparsity.

An allocation measures the dense model before the first layer is pruned. The shares are a pure function of the measurement, so a
measurement can be cached.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from torch import Tensor

from ..core import Pattern, Site, Tap, UserError
from ..models import Decoder
from ..ranges import Range
from ..stream import Stream

Shapes = Mapping[Site, tuple[int, int]]  # outputs and inputs of each layer that is pruned
Unit = Literal["block", "role", "layer", "leaf"]
Distance = Annotated[float, Range(least=0, below=1, such=0.08)]  # of a share from the sparsity


@dataclass(frozen=True)
class Allotted:
    """The result of an allocation: a pattern for each layer, and the rows of the table."""

    patterns: Mapping[Site, Pattern]
    rows: list[
        dict[str, Any]
    ]  # the rows of allocation.csv: for each group its share of removed weights, and the measurements


class Allocation(Protocol):
    """Chooses the sparsity of each layer such that all layers together have the sparsity of the pattern."""

    @property
    def measurement(self) -> str | None:
        """The options that `measure` depends on, as text: part of the key of a cached measurement. None: nothing is measured."""
        ...

    @property
    def streams(self) -> bool:
        """True if `measure` works on one block at a time, so that it can measure a streamed model."""
        ...

    def check(self, pattern: Pattern) -> None:
        """Raise `UserError` if this pattern fixes one sparsity for all layers, and the allocation needs different ones."""
        ...

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        """The statistics that `measure` reads for this layer."""
        ...

    def measure(self, decoder: Decoder, stream: Stream, ids_BT: Tensor, shapes: Shapes) -> Mapping[str, Tensor]:
        """The measurements of the dense model, on the CPU. The model must be unchanged afterwards, to the last bit.

        `stream`: positioned at the first block, with the dense model's activations on the calibration text `ids_BT`.
        """
        ...

    def allot(self, pattern: Pattern, shapes: Shapes, measured: Mapping[str, Tensor]) -> Allotted:
        """The pattern of each layer, from the measurements."""
        ...


def check_differs(allocation: Allocation, pattern: Pattern) -> None:
    """Raise `UserError` for a pattern with groups, which fixes one sparsity for all layers."""
    if pattern.group is not None:
        raise UserError(
            f"allocation {allocation} gives the layers different sparsities, but {pattern} removes {pattern.sparsity:.2%} of "
            f"each: expected a pattern without groups. Use pattern=unstructured, or allocation=uniform"
        )

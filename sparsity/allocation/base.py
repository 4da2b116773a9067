"""An allocation turns the one pattern into a pattern for each layer, which differ in their sparsity alone. What it must know of the
dense model it measures before the first layer is pruned; what it makes of that is a pure function, so a measurement can be kept.
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

Shapes = Mapping[Site, tuple[int, int]]  # outputs and inputs of every layer among which a total is shared out
Unit = Literal["block", "role", "layer", "leaf"]
Distance = Annotated[float, Range(least=0, below=1, such=0.08)]  # of a share from the sparsity


@dataclass(frozen=True)
class Allotted:
    patterns: Mapping[Site, Pattern]
    rows: list[dict[str, Any]]  # for each group of layers its share of removed weights, and what was measured of it


class Allocation(Protocol):
    @property
    def measurement(self) -> str | None:
        """Of its options, those that `measure` depends on: two of one text measure the same. None: nothing is measured."""
        ...

    @property
    def streams(self) -> bool:
        """Whether `measure` works on one block at a time, so that a model that is read block by block will do."""
        ...

    def check(self, pattern: Pattern) -> None:
        """Raise `UserError` if the layers of this pattern cannot differ."""
        ...

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        """What `measure` reads of this layer's stream."""
        ...

    def measure(self, decoder: Decoder, stream: Stream, ids_BT: Tensor, shapes: Shapes) -> Mapping[str, Tensor]:
        """What must be known of the dense model, on the CPU. The model is left as it was found, to the last bit.

        `stream`: stands in front of the first block and sees the dense model's activations on the calibration text `ids_BT`.
        """
        ...

    def allot(self, pattern: Pattern, shapes: Shapes, measured: Mapping[str, Tensor]) -> Allotted: ...


def check_differs(allocation: Allocation, pattern: Pattern) -> None:
    """Refuse a pattern whose groups fix one sparsity for all layers."""
    if pattern.group is not None:
        raise UserError(
            f"allocation {allocation} gives every layer a sparsity of its own, but {pattern} removes {pattern.sparsity:.2%} of "
            f"each: expected a pattern without groups. Use pattern=unstructured, or allocation=uniform"
        )

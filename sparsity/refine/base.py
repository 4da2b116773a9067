"""The interface of a refinement. It gets a whole block after all its layers were pruned and corrected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from ..core import Site
from ..models import Block
from ..stream import Passage, Target


class Refinement(Protocol):
    """Changes the survivors of a block together, in place. Removed weights stay zero."""

    @property
    def target(self) -> Target | None:
        """The kind of outputs of the dense block that it needs; None: it needs no text, and `refine` is not called."""
        ...

    def passes(self, batches: int) -> int:
        """The largest number of forward passes of a batch; a backward pass counts as two. 0 if it tunes nothing."""
        ...

    def check(self, sequences: int, batch_size: int) -> None:
        """Raise `UserError` if a calibration text of `sequences` sequences, in batches of `batch_size`, is not enough."""
        ...

    def refine(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]) -> Mapping[str, float]:
        """Tune the block. Returns numbers for the block's row in blocks.csv.

        `keeps`: the masks (O, I) of the layers that were pruned; `passage`: the block's inputs and targets.
        """
        ...

"""What a refinement is: it sees a whole block, once all of its layers are pruned and corrected, before the stream moves on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from ..core import Site
from ..models import Block
from ..stream import Passage, Target


class Refinement(Protocol):
    """Change the survivors of a block together, in place. The support never grows."""

    @property
    def target(self) -> Target | None:
        """Which outputs of the dense block are kept for it; None: it reads no text, and `refine` is not called."""
        ...

    def check(self, sequences: int, batch_size: int) -> None:
        """Raise `UserError` if so much calibration text, in such batches, is not enough."""
        ...

    def refine(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]) -> Mapping[str, float]:
        """`keeps`: the masks (O, I) of the layers that were pruned. Returns numbers for the block's row in blocks.csv."""
        ...

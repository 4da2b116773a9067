"""No refinement: a block keeps the weights from its layers' methods and correctors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core import Site
from ..models import Block
from ..stream import Passage


@dataclass(frozen=True)
class NoRefinement:
    """The refinement that changes nothing."""

    @property
    def target(self) -> None:
        return None

    def passes(self, batches: int) -> int:
        return 0

    def check(self, sequences: int, batch_size: int) -> None:
        """Accepts every text: none is read."""

    def refine(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]) -> Mapping[str, float]:
        return {}

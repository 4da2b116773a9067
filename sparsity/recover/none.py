"""No recovery: the model stays as methods, correctors and refinement have left it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core import Site
from ..models import Decoder
from ..notes import NO_NOTES, Notes
from .base import Recovered, Taught


@dataclass(frozen=True)
class NoRecovery:
    """The recovery that changes nothing."""

    recompute: ClassVar[bool] = False
    positions: ClassVar[int] = 0

    @property
    def reads_text(self) -> bool:
        return False

    def passes(self, batches: int) -> int:
        return 0

    def check(self, sequences: int, batch_size: int) -> None:
        """Raises nothing: it reads no text."""

    def teach(self, dense: Decoder, batches: Sequence[Tensor], head: bool) -> Taught:
        return Taught([], {})

    def recover(
        self,
        pruned: Decoder,
        keeps: Mapping[Site, Tensor],
        batches: Sequence[Tensor],
        taught: Taught,
        notes: Notes = NO_NOTES,
    ) -> Recovered:
        return Recovered({}, [])

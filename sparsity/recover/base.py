"""What a recovery is: it sees the whole model, once every block is pruned, and what the dense model made of the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..core import Site
from ..models import Decoder
from ..notes import NO_NOTES, Notes


class Taught(NamedTuple):
    """Of the dense model, kept until it is pruned, on the CPU."""

    hidden: list[Tensor]  # (B, T, I) behind its last block, batch by batch
    outside: Mapping[str, Tensor]  # its parameters outside the blocks, where the pruned model's will be others


class Recovered(NamedTuple):
    facts: Mapping[str, float]  # for result.json
    rows: list[dict[str, Any]]  # of recovery.csv, one an epoch


class Recovery(Protocol):
    """Change the survivors of a whole model together, in place. The support never grows."""

    @property
    def reads_text(self) -> bool:
        """False: neither of the two below is called."""
        ...

    @property
    def recompute(self) -> bool:
        """Whether activations are computed again where their gradient is needed, instead of kept."""
        ...

    @property
    def positions(self) -> int:
        """The tokens of each sequence in a batch whose logits it holds at once."""
        ...

    def passes(self, batches: int) -> int:
        """The largest number of forward passes of a batch; a backward pass counts as two. 0 if it tunes nothing."""
        ...

    def check(self, sequences: int, batch_size: int) -> None:
        """Raise `UserError` if so much calibration text, in such batches, is not enough."""
        ...

    def teach(self, dense: Decoder, batches: Sequence[Tensor], head: bool) -> Taught:
        """What must be known of the dense model, where it is. `head`: its head will be pruned too."""
        ...

    def recover(
        self,
        pruned: Decoder,
        keeps: Mapping[Site, Tensor],
        batches: Sequence[Tensor],
        taught: Taught,
        notes: Notes = NO_NOTES,
    ) -> Recovered:
        """Tune the survivors in place.

        `keeps`: the masks (O, I) of the layers of the blocks that were pruned; `batches`: the calibration text's ids, (B, T) each;
        `notes`: where it keeps how far it is, so that it resumes there.
        """
        ...

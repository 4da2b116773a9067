"""The protocol of a recovery. It gets the whole pruned model, and the dense model's hidden states for the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..core import Site
from ..models import Decoder
from ..notes import NO_NOTES, Notes


class Taught(NamedTuple):
    """The tensors of the dense model that a recovery needs, copied to the CPU before the model is pruned."""

    hidden: list[Tensor]  # (B, T, I) after the last block, one per batch
    outside: Mapping[str, Tensor]  # parameters outside the blocks, if pruning will change them


class Recovered(NamedTuple):
    """The result of a recovery."""

    facts: Mapping[str, float]  # for result.json
    rows: list[dict[str, Any]]  # of recovery.csv, one per epoch


class Recovery(Protocol):
    """Changes the surviving weights of a whole model together, in place. Removed weights stay zero."""

    @property
    def reads_text(self) -> bool:
        """True if it needs calibration text. If False, `teach` and `recover` are not called."""
        ...

    @property
    def recompute(self) -> bool:
        """True if activations are not kept but computed again when their gradient is needed."""
        ...

    @property
    def positions(self) -> int:
        """The number of tokens of each sequence in a batch whose logits it holds at once."""
        ...

    def passes(self, batches: int) -> int:
        """The largest number of forward passes of a batch; a backward pass counts as two. 0 if it tunes nothing."""
        ...

    def check(self, sequences: int, batch_size: int) -> None:
        """Raise `UserError` if this number of calibration sequences, in batches of this size, is not enough."""
        ...

    def teach(self, dense: Decoder, batches: Sequence[Tensor], head: bool) -> Taught:
        """Return what the recovery needs of the dense model. `head`: True if the head will be pruned too."""
        ...

    def recover(
        self,
        pruned: Decoder,
        keeps: Mapping[Site, Tensor],
        batches: Sequence[Tensor],
        taught: Taught,
        notes: Notes = NO_NOTES,
    ) -> Recovered:
        """Tune the surviving weights in place.

        `keeps`: the masks (O, I) of the pruned layers in the blocks. `batches`: the ids (B, T) of the calibration text. `notes`:
        its progress, from which it resumes.
        """
        ...

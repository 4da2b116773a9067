"""A streamed model for evaluators. All sequences go through a block together, so that every block is read only once.

Then they go through the head one batch at a time. Memory: one block, the hidden states of all sequences, the logits of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import Decoder
from ..stream import BlockStream


class Walked:
    """A `evaluator.Model` for evaluators whose `streams` is true."""

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self.model: Any = decoder.model
        self.tokenizer: Any = decoder.tokenizer

    @property
    def device(self) -> torch.device:
        return self._decoder.device

    def logits(self, ids_BT: Tensor) -> Tensor:
        return next(self.logits_of([ids_BT]))

    def logits_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        for ids_BT, hidden_BTI in zip(batches, self.hidden_of(batches), strict=True):
            yield self._decoder.head(ids_BT, hidden_BTI)

    def hidden_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        stream = BlockStream(
            self._decoder,
            torch.cat([*batches]),
            batch_size=len(batches[0]),
            propagate="pruned",
            device=self.device,
            text="evaluation",
        )
        for block in stream.blocks:
            with block.on(stream.device):
                stream.advance(block)
        yield from stream.hidden

    def outside(self) -> Mapping[str, Tensor]:
        return self._decoder.outside()

    def head(self, ids_BT: Tensor, hidden_BTI: Tensor, outside: Mapping[str, Tensor] | None = None) -> Tensor:
        return self._decoder.head(ids_BT, hidden_BTI, outside)

    def culprit(self, ids_BT: Tensor) -> str:
        """The head: the stream has already checked that all outputs of the blocks are finite."""
        return "its head"

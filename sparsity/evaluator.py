"""The protocol of evaluators, the part of a model that they use, and the result that they return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .measures import Measure
from .notes import NO_NOTES, Notes


class Model(Protocol):
    """The part of a model that evaluators use."""

    @property
    def model(self) -> Any:
        """The transformers model itself, for code that needs it whole. Leave it unchanged."""
        ...

    @property
    def tokenizer(self) -> Any:
        """The tokenizer; None if the model came without one."""
        ...

    @property
    def device(self) -> torch.device:
        """The device on which the model computes."""
        ...

    def logits(self, ids_BT: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of token ids on any device."""
        ...

    def logits_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Logits (B, T, V) of batches (B, T) of one size; the last may be smaller. Pass the whole text in one call."""
        ...

    def hidden_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Hidden states (B, T, I) after the last block, of many batches (B, T). Pass the whole text: each call reads a streamed
        model's files.
        """
        ...

    def outside(self) -> Mapping[str, Tensor]:
        """The parameters outside the blocks, by name, without the token embeddings if the head does not share them."""
        ...

    def head(self, ids_BT: Tensor, hidden_BTI: Tensor, outside: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits (B, T, V) of hidden states (B, T, I) after the last block. Each position is computed alone.

        `outside`: parameters of another model, on this model's device, to use for the parameters outside the blocks.
        """
        ...

    def culprit(self, ids_BT: Tensor) -> str:
        """The name of the first module whose output on these ids holds a NaN or an infinity, for a message."""
        ...


@dataclass(frozen=True)
class Measured:
    """The result of an evaluator: a `summary` for result.json, one row per window or document for `<table>.csv`, and measures.

    A measure's name is its dotted path in the summary. Without measures the summary's numbers are shown unchanged, without
    a unit and without a better direction.
    """

    summary: Mapping[str, Any]
    table: str
    rows: list[dict[str, Any]]
    measures: Sequence[Measure] = ()


class Evaluator(Protocol):
    """Measures a model. It sees the dense model before pruning and the pruned model afterwards."""

    @property
    def reads_text(self) -> bool:
        """True if it measures on the dataset's evaluation text. If False, `ids_N` may be empty."""
        ...

    @property
    def remembers(self) -> bool:
        """True if `reference` may be cached across runs. The key is the model, `repr`, `files`, and the text if it reads it."""
        ...

    @property
    def streams(self) -> bool:
        """True if it can measure a streamed model: it then uses only `logits_of`, `hidden_of`, `outside` and `head`."""
        ...

    def files(self) -> Sequence[Path]:
        """The local files that it reads besides the evaluation text."""
        ...

    def check(self, ids_N: Tensor) -> None:
        """Raise `UserError` for every mistake that can be seen before a forward pass, such as a text that is too short."""
        ...

    def reference(self, dense: Model, ids_N: Tensor, notes: Notes = NO_NOTES) -> Mapping[str, Tensor]:
        """The tensors of the dense model that `compare` needs, on the CPU. `notes`: the progress of a long evaluation."""
        ...

    def compare(
        self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor], notes: Notes = NO_NOTES
    ) -> Measured: ...

"""Where a model comes from: a frozen value, checked in milliseconds, loaded when everything else is known to fit.

A source gives a model at rest: on the CPU, in evaluation mode, without gradients. Where it computes is not its affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:  # transformers takes seconds, and a model is named before it is loaded
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .files import Files


@dataclass(frozen=True)
class Loaded:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # short, for tables and file names: "SmolLM2-135M-Instruct"
    origin: Mapping[str, str]  # what result.json pins: enough to get the same model again
    files: Files | None = None  # where the weights of its blocks rest, if not in the model


@runtime_checkable
class ModelSource(Protocol):
    @property
    def stream(self) -> bool:
        """Whether the blocks stay in their files, from which each is read when it is worked on."""
        ...

    def check(self) -> None:
        """Raise `UserError` for what can be seen without a network and without weights: a bad path, a bad name."""
        ...

    def files(self) -> list[Path]:
        """The files of this machine that `load` would read: a result is theirs as long as they do not change."""
        ...

    def load(self, dtype: torch.dtype | None) -> Loaded:
        """The model and its tokenizer. `dtype` None keeps the checkpoint's own."""
        ...


@dataclass(frozen=True)
class Itself:
    """In the place of a reference: the model is compared with what it was before pruning."""

    stream: ClassVar[bool] = False

    def check(self) -> None:
        """Nothing can be wrong with it."""

    def files(self) -> list[Path]:
        return []

"""The source of a model: a frozen value that is checked within milliseconds, and loaded only after all other checks.

A source returns the model on the CPU, in evaluation mode, without gradients. The caller chooses the device.
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
    """A model that a source has loaded, with what a result says about it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # short, for tables and file names: "SmolLM2-135M-Instruct"
    origin: Mapping[str, str]  # recorded in result.json: enough to get the same model again
    files: Files | None = None  # the storage of its blocks' weights, if the model is streamed


@runtime_checkable
class ModelSource(Protocol):
    """A place from which a model can be loaded."""

    @property
    def stream(self) -> bool:
        """True if the blocks' weights stay in their files, from which each block is read when it is needed."""
        ...

    def check(self) -> None:
        """Raise `UserError` for mistakes that can be seen without network and weights, such as a wrong path or name."""
        ...

    def files(self) -> list[Path]:
        """The local files that `load` reads. A finished run is repeated if one of them has changed."""
        ...

    def load(self, dtype: torch.dtype | None) -> Loaded:
        """The model and its tokenizer. `dtype` None: the dtype of the checkpoint."""
        ...


@dataclass(frozen=True)
class Itself:
    """The default reference: the pruned model is compared with the same model before pruning."""

    stream: ClassVar[bool] = False

    def check(self) -> None:
        """Finds no mistake: there are no options."""

    def files(self) -> list[Path]:
        return []

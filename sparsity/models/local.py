"""A model from a checkpoint folder on this machine, as `save_pretrained` or `packed=true` writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sparsity.core import UserError
from sparsity.models.layout import CONVERT, INDEX, SINGLE, first_line, listed
from sparsity.models.packed import FILE as PACKED
from sparsity.models.source import Loaded
from sparsity.ranges import Refused, checked

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
@checked
class Local:
    """A model source that reads a local folder."""

    path: str
    stream: bool

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser().resolve()

    def check(self) -> None:
        if not self.folder.is_dir():
            raise Refused({"path": self.path}, "a checkpoint folder, and there is no such folder")
        if not (self.folder / "config.json").is_file():
            adapter = self._has("adapter_config.json")
            todo = "merge the adapter into its base model" if adapter else "name the folder that holds config.json"
            raise UserError(f"{self.folder}: got no config.json; expected what `save_pretrained` writes; {todo}")
        if not any(map(self._has, (SINGLE, INDEX, PACKED))):
            pickled = listed(path.name for path in self.folder.glob("*.bin"))
            raise UserError(f"{self.folder}: got {pickled or 'no weights'}; expected {SINGLE}; {CONVERT}")
        if absent := self._absent_shards():
            raise UserError(
                f"{self.folder}: got {INDEX} but not {listed(absent)}; expected every shard; copy or download the rest"
            )
        if self.stream and not any(map(self._has, (SINGLE, INDEX))):
            raise UserError(
                f"{self.folder}: got {PACKED}, from which model.stream=true cannot read one block; expected {SINGLE} or shards; "
                f"leave model.stream=false, or name the folder that save=true wrote beside this one"
            )
        self._configuration()

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_file())

    def load(self, dtype: torch.dtype | None) -> Loaded:
        from sparsity.models.checkpoint import read  # transformers takes seconds

        self.check()
        model, tokenizer, files = read(self.folder, self._configuration(), dtype, self.stream, local_files_only=True)
        return Loaded(model, tokenizer, self.folder.name, {"source": "local", "path": str(self.folder)}, files)

    def _has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def _absent_shards(self) -> set[str]:
        """The shards that the index names and the folder lacks; none if one file holds everything."""
        if self._has(SINGLE) or self._has(PACKED):
            return set()
        index = json.loads((self.folder / INDEX).read_text("utf-8"))
        return {name for name in set(index["weight_map"].values()) if not self._has(name)}

    def _configuration(self) -> PreTrainedConfig:
        from sparsity.models.checkpoint import configuration  # as above

        try:
            return configuration(self.folder, local_files_only=True)
        except OSError as err:
            raise UserError(f"{self.folder}: got {first_line(err)}; expected a readable config.json; mend it") from err

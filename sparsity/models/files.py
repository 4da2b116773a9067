"""A streamed model: the weights of its blocks stay in files. A block is read when it is needed, and written if it has changed.

The files are those of a checkpoint in the hub's layout: model.safetensors, or the shards that an index names. They are never
overwritten: a changed block gets its own file, which appears complete or not at all. The parameters outside the blocks (embeddings,
last norm, head) stay in memory. Memory: these, and one block.

Tensors get the names and dtypes that transformers would give them: it renames some (gamma to weight), and adds or removes the name
of the base model. Tensors that it would compute from several others, such as experts stored one by one, are listed in `converted`
and cannot be read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from .blocks import find_blocks
from .layout import INDEX, SINGLE

Place = tuple[Path, str]  # a file, and a tensor's name in it


class Files:
    """The files of a model that has no weights yet (`skeleton`). The parameters outside its blocks are read at once."""

    def __init__(self, model: PreTrainedModel, paths: Sequence[Path]):
        self.model = model
        self.converted: list[str] = []  # tensors in the files that only a conversion could read
        self.spare: set[str] = set()  # tensors in the files that the model has no parameter for
        self._blank: Mapping[str, Tensor] = model.state_dict()
        self._checkpoint = self._find(paths)
        self._written: dict[str, Path] = {}  # the files of the blocks that have changed
        self._folder: Path | None = None
        self._scratch: TemporaryDirectory[str] | None = None
        blocks, modules = find_blocks(model)
        self._homes = {f"{blocks}.{i}": _Home(self, f"{blocks}.{i}", modules[i]) for i in range(len(modules))}
        inside = {name for home in self._homes.values() for name in home.names}
        self._outside = [name for name in self._blank if name not in inside]
        self.missing = self._load_outside()
        plain = {} if self.converted else self._blank
        self._stored = {name: _stored(model, name, blank) for name, blank in plain.items()}

    def _find(self, paths: Iterable[Path]) -> dict[str, Place]:
        transforms = get_model_conversion_mapping(self.model)
        renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        found: dict[str, Place] = {}
        for path in paths:
            with safe_open(path, framework="pt") as file:
                for key in sorted(file.keys(), key=dot_natural_key):
                    prefix = (self.model.base_model_prefix, self._blank)
                    name, converter = rename_source_key(key, renamings, converters, *prefix)
                    if name not in self._blank and key in self._blank:
                        name, converter = rename_source_key(key, [], [], *prefix)
                    if converter is not None:
                        self.converted.append(key)
                    elif name not in self._blank:
                        self.spare.add(key)
                    elif file.get_slice(key).get_shape() == list(self._blank[name].shape):
                        found[name] = path, key
        self.model._weight_conversions = [transform for transform in transforms if transform.was_used()]
        known = SimpleNamespace(missing_keys=set(), unexpected_keys=self.spare)
        self.model._adjust_missing_and_unexpected_keys(known)
        self.spare = known.unexpected_keys
        return found

    def _load_outside(self) -> set[str]:
        """Load the parameters outside the blocks. Returns the names that the checkpoint lacks, or has in other shapes."""
        missing = {name for name in self._blank if name not in self._checkpoint}
        self.model.load_state_dict(
            self._read(name for name in self._outside if name not in missing), strict=False, assign=True
        )
        self.model.tie_weights(missing_keys=missing, recompute_mapping=False)  # removes tied tensors from `missing`
        return missing

    def home(self, block: str) -> _Home:
        """The storage of one block, by its full name."""
        return self._homes[block]

    def keep_in(self, folder: Path) -> None:
        """Write changed blocks into this folder from now on. Without it they go into a temporary folder."""
        self._folder = folder

    def restore(self) -> None:
        """Return to the model of the checkpoint: forget changed blocks, and read the parameters outside the blocks again."""
        self._written.clear()
        self._load_outside()

    def read_block(self, block: str, names: Collection[str]) -> dict[str, Tensor]:
        """These tensors of a block as it is now, on the CPU, in the model's dtypes."""
        path = self._written.get(block)
        return self._read(names, None if path is None else {name: (path, self._stored[name]) for name in names})

    def write_block(self, block: str, tensors: Mapping[str, Tensor]) -> None:
        """Store the tensors of a changed block in its own file."""
        if self._folder is None:
            self._scratch = self._scratch or TemporaryDirectory()
            self._folder = Path(self._scratch.name)
        path = self._folder / f"{block}.safetensors"
        self._save(tensors, path.with_suffix(".part"))
        self._written[block] = path.with_suffix(".part").replace(path)

    def _read(self, names: Iterable[str], places: Mapping[str, Place] | None = None) -> dict[str, Tensor]:
        """The tensors with these names, on the CPU, in the model's dtypes."""
        by_file: dict[Path, dict[str, str]] = {}
        for name in names:
            path, key = (places or self._checkpoint)[name]
            by_file.setdefault(path, {})[name] = key
        tensors: dict[str, Tensor] = {}
        for path, keys in by_file.items():
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(key).to(self._blank[name].dtype) for name, key in keys.items()}
        return tensors

    def _save(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Write tensors under the names that transformers gives them in a file."""
        stored = {self._stored[name]: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(stored, path, metadata={"format": "pt"})

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Write the model as it is now, as `save_pretrained` would: one shard per block, one for the rest, and the index.

        The file of a changed block is linked, not copied, if the file system can do that.
        """
        state = self.model.state_dict()
        self.model.save_pretrained(folder, state_dict={name: state[name] for name in self._outside})
        names = [f"model-{i + 1:05d}-of-{len(self._homes) + 1:05d}.safetensors" for i in range(len(self._homes) + 1)]
        (folder / SINGLE).rename(folder / names[0])
        for shard, (block, home) in zip(names[1:], self._homes.items(), strict=True):
            if block in self._written:
                _link(self._written[block], folder / shard)
            else:
                self._save(self.read_block(block, home.names), folder / shard)
        (folder / INDEX).write_text(json.dumps(_index(folder, names), indent=2, sort_keys=True) + "\n", "utf-8")


class _Home:
    """The storage of one block: see `blocks.Home`."""

    def __init__(self, files: Files, block: str, module: nn.Module):
        self._files, self._block = files, block
        self._blank = module.state_dict()
        self.names = {f"{block}.{name}": name for name in self._blank}
        self._touched = False

    def touched(self) -> None:
        self._touched = True

    @contextmanager
    def lent(self, module: nn.Module) -> Iterator[None]:
        if not next(module.parameters()).is_meta:  # an outer context has already read the weights
            yield
            return
        tensors = self._files.read_block(self._block, self.names)
        module.load_state_dict({self.names[name]: tensor for name, tensor in tensors.items()}, assign=True)
        del tensors
        self._touched = False
        try:
            yield
            if self._touched:
                now = module.state_dict()
                self._files.write_block(self._block, {name: now[short] for name, short in self.names.items()})
        finally:
            module.load_state_dict(self._blank, assign=True)


def _stored(model: PreTrainedModel, name: str, blank_ANY: Tensor) -> str:
    """The name that a tensor of the model has in a file; transformers renames some."""
    [stored] = map(str, revert_weight_conversion(model, {name: blank_ANY}))
    return stored


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the target is on another file system, or on one without links
        shutil.copyfile(source, target)


def _index(folder: Path, shards: Sequence[str]) -> dict[str, dict[str, int | str]]:
    """The content of the index: which shard holds which tensor, read from the shards."""
    weight_map: dict[str, int | str] = {}
    size = parameters = 0
    for shard in shards:
        with safe_open(folder / shard, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                tensor = file.get_tensor(key)
                weight_map[key] = shard
                parameters += tensor.numel()
                size += tensor.numel() * tensor.element_size()
    return {"metadata": {"total_parameters": parameters, "total_size": size}, "weight_map": weight_map}

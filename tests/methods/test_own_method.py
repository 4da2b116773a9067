"""A user's own method, with its option, in a folder outside the repository."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SMALL, UNMEASURED, Run, process

pytestmark = pytest.mark.usefixtures("work")

MINE = '''
from dataclasses import dataclass
from sparsity.core import Criterion


@dataclass(frozen=True)
class Alternate(Criterion):
    """Scores rise with the place in the row, so the first inputs go."""

    scope: str
    slope: float

    def score(self, layer, stats):
        return layer.weight_OI.new_ones(layer.weight_OI.shape).cumsum(1) * self.slope
'''


@pytest.fixture
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A folder outside the repository with a method and its option; runs `python run.py` from yet another folder."""
    lab = tmp_path_factory.mktemp("lab")
    package, option = lab / "my_lab", lab / "conf" / "method"
    for folder in (package, option):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(MINE)
    (option / "mine.yaml").write_text("_target_: my_lab.mine.Alternate\nscope: row\nslope: 1.0\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        common = ("--config-dir", str(lab / "conf"), *SMALL, UNMEASURED, "device=cpu", "hydra.run.dir=run")
        return process(*common, *words, PYTHONPATH=str(lab), OMP_NUM_THREADS="1")

    return run


def test_a_users_own_method_runs_from_outside(laboratory):
    done = laboratory("method=mine", "allow=[my_lab]")
    assert done.returncode == 0, done.stderr
    rows = Run(Path("run")).layers
    assert {row["method"] for row in rows} == {"mine"}
    assert {row["sparsity_found"] for row in rows} == {"0.5"}
    assert len(rows) == 14


def test_a_users_own_method_must_be_allowed(laboratory):
    done = laboratory("method=mine")
    assert done.returncode == 1
    assert "method._target_=my_lab.mine.Alternate is refused" in done.stderr
    assert "allow=[my_lab]" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not Path("run").exists()

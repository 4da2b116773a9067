"""`make test-launchers`: a grid has one table, whoever launches its points; and Optuna's study outlives its process."""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import MEASURED, ROOT, SMALL, process

pytestmark = [pytest.mark.launchers, pytest.mark.usefixtures("work")]
GRID = ("-m", *SMALL, *MEASURED, "calibration.propagate=dense", "method=wanda,sparsegpt", "corrector=none,optimal")
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=4"),
    "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"),
    "ray": (
        "hydra/launcher=ray",
        "+hydra.launcher.ray.init.include_dashboard=false",
        "+hydra.launcher.ray.init.num_cpus=2",
    ),
}


def table(sweep: str) -> list[dict[str, str]]:
    """The results without folders and times."""
    with Path(sweep, "sweep.csv").open() as file:
        return [
            {name: cell for name, cell in row.items() if "seconds" not in name and name != "folder"}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    from commands import workplace

    with workplace(tmp_path_factory.mktemp("basic")):
        ended = process(*GRID, "hydra.sweep.dir=sweep", OMP_NUM_THREADS="1")
        assert ended.returncode == 0, ended.stderr
        return table("sweep")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_grid_is_the_same_grid(basic, launcher):
    ended = process(*GRID, *LAUNCHERS[launcher], "hydra.sweep.dir=sweep", OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    assert len(basic) == 4
    assert table("sweep") == basic
    assert "4 of 4 points finished" in ended.stdout
    walks = list(Path("cache/statistics").glob("*/"))
    assert len([path for path in walks if path.is_dir()]) == 1  # all of them share one calibration


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failed_point_is_named_and_the_others_finish(launcher):
    words = ("-m", *SMALL, *MEASURED, "method=wanda", "sparsity=0.5,1.5,0.6", "hydra.sweep.dir=sweep")
    ended = process(*words, *LAUNCHERS[launcher], OMP_NUM_THREADS="1")
    assert ended.returncode == 1
    assert [row["status"] for row in table("sweep")] == ["finished", "failed", "finished"]
    assert "#1 sparsity=1.5 failed: sparsity=1.5 is not valid: expected a number >= 0 and < 1" in ended.stdout
    assert "2 of 3 points finished" in ended.stdout


def test_the_slurm_launcher_composes():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["hydra/launcher=slurm", "hydra.launcher.partition=gpu"], return_hydra_config=True)
    launcher = config.hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.partition, launcher.gpus_per_node, launcher.max_num_timeout) == ("gpu", 1, 10)
    assert launcher.additional_parameters.requeue is True


def trials(database: Path) -> int:
    """The number of points whose value Optuna knows."""
    if not database.exists():
        return 0
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        try:
            return connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def test_a_study_survives_a_kill():
    Path("outputs").mkdir()
    words = (
        "-m", "experiment=tfidf_optuna", *SMALL, *MEASURED, "hydra.sweeper.n_trials=6",
        "evaluation.divergence.seqlen=32", "evaluation.divergence.windows=4",
    )  # fmt: skip
    database = Path("outputs/tfidf_optuna.db")
    line = [sys.executable, str(ROOT / "run.py"), *words]
    with subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as child:
        end = time.monotonic() + 120
        while trials(database) < 2:
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < end
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    before = trials(database)
    assert 2 <= before < 6
    ended = process(*words, OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    assert trials(database) == before + 6
    best = Path(max(Path("outputs/tfidf_optuna").glob("*/optimization_results.yaml"), key=os.path.getmtime)).read_text()
    assert "best_value" in best

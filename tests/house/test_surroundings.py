"""The tests pass whatever is set in the environment of whoever runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from surroundings import ALWAYS, ROOT, known

HOSTILE = {
    "WANDB_MODE": "offline", "WANDB_PROJECT": "theirs", "WANDB_DISABLED": "true", "WANDB_DIR": "/nowhere",
    "HF_HUB_OFFLINE": "0", "HF_HOME": "/nowhere", "HF_TOKEN": "none", "TRANSFORMERS_VERBOSITY": "debug",
    "SPARSITY_CACHE": "/nowhere", "WIKITEXT2_RAW": "/nowhere", "TRACKIO_DIR": "/nowhere", "COLUMNS": "20", "NO_COLOR": "1",
    "FORCE_COLOR": "1", "LANG": "C", "LC_ALL": "C", "OMP_NUM_THREADS": "2", "HYDRA_FULL_ERROR": "0",
    "HYDRA_MAIN_MODULE": "theirs", "TORCHELASTIC_RUN_ID": "theirs", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1",
}  # fmt: skip
SENSITIVE = (
    "tests/tracking/test_real_trackers.py::test_a_run_that_fails_is_failed_at_w_and_b",
    "tests/tracking/test_real_trackers.py::test_a_key_that_is_none",
    "tests/runs/test_run.py::test_help_lists_the_options",
    "tests/runs/test_run.py::test_a_process_of_its_own",
    "tests/runs/test_run.py::test_nothing_is_measured_without_evaluators",
)


def test_what_others_set_is_taken_away() -> None:
    mine = {"HOME": "/home", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"}
    assert known(mine | HOSTILE) == mine | ALWAYS


@pytest.mark.slow
def test_sensitive_tests_pass_in_a_hostile_environment(tmp_path: Path) -> None:
    (tmp_path / "sparsity.py").write_text("raise ImportError('another program of this name')\n")
    environment = {**os.environ, **HOSTILE, "PYTHONPATH": str(tmp_path)}
    line = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *SENSITIVE)
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{len(SENSITIVE)} passed" in ended.stdout

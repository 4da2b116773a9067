"""`sparsity-lab`, `python run.py` and `python -m sparsity` are one program: what it loads, what it is called, what it refuses."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from commands import MEASURED, ROOT, SMALL, command, run
from omegaconf import OmegaConf

from sparsity.record.started import started
from sparsity.runs.command import configuration, job

pytestmark = pytest.mark.usefixtures("work")


def loaded(*words: str, **variables: str) -> tuple[str, set[str]]:
    """What `python -m sparsity` says, and all modules that it loads."""
    line = (sys.executable, "-X", "importtime", "-m", "sparsity", *words)
    ended = subprocess.run(line, env={**os.environ, **variables}, capture_output=True, text=True)
    modules = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in modules or words == ("--version",)
    return ended.stdout, modules


COMPLETION = {"COMP_LINE": "sparsity-lab method=wan", "COMP_POINT": "23"}


@pytest.mark.parametrize(
    "words,variables,said",
    [
        (("--help",), {}, "python -m sparsity plan=true"),
        (("-sc", "query=bash"), COMPLETION, "method=wanda"),
        (("--version",), {}, "sparsity-lab"),
        (("sparsty=0.5",), {}, ""),
    ],
    ids=["help", "TAB", "version", "mistake"],
)
def test_what_needs_no_model_waits_for_no_torch(words, variables, said):
    out, modules = loaded(*words, **variables)
    assert said in out
    assert not modules & {"torch", "transformers", "numpy", "pydantic"}


def test_a_run_that_finished_earlier_waits_for_torch_alone():
    run(*MEASURED, "method=wanda")
    out, modules = loaded(*SMALL, *MEASURED, "method=wanda", "hydra.run.dir=run")
    assert "finished earlier" in out
    heavy = {
        "transformers", "datasets", "sklearn", "scipy", "lm_eval", "gguf", "accelerate", "trackio", "wandb", "jinja2",
        "kneed", "httpx2", "torch._dynamo", "sympy",
    }  # fmt: skip
    assert "torch" in modules
    assert not modules & heavy


@pytest.mark.parametrize(
    "script,processes,words",
    [
        ("run.py", 1, ["python", "run.py"]),
        ("here/run.py", 1, ["python", "here/run.py"]),
        (str(ROOT / "sparsity" / "__main__.py"), 1, ["python", "-m", "sparsity"]),
        ("bin/sparsity-lab", 1, ["sparsity-lab"]),
        ("elsewhere/sparsity-lab", 1, ["elsewhere/sparsity-lab"]),
        ("run.py", 2, ["torchrun", "--nproc-per-node=2", "run.py"]),
        ("bin/sparsity-lab", 2, ["torchrun", "--nproc-per-node=2", "-m", "sparsity"]),
        (str(ROOT / "sparsity" / "__main__.py"), 2, ["torchrun", "--nproc-per-node=2", "-m", "sparsity"]),
    ],
)
def test_how_it_is_started_again(script, processes, words, work, monkeypatch):
    for folder in ("bin", "elsewhere"):
        (work / folder).mkdir()
        (work / folder / "sparsity-lab").touch(0o755)
    monkeypatch.setenv("PATH", str(work / "bin"))
    monkeypatch.setattr(sys, "argv", [script, "sparsity=0.5"])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")
    assert started(processes) == words


def test_launchers_find_the_run_by_its_name(monkeypatch):
    """They import the function in another process: none that is only here."""
    handed = []
    monkeypatch.setattr("hydra.main", lambda **_: lambda function: lambda: handed.append(function))
    assert command("sparsity=0.5").status == 0
    assert pickle.loads(pickle.dumps(handed)) == [job]


def test_garbage_is_collected_in_a_run(monkeypatch):
    monkeypatch.setattr("sparsity.runs.launch.job", lambda config: gc.isenabled())
    gc.disable()
    try:
        assert job(OmegaConf.create())
    finally:
        gc.enable()
        gc.unfreeze()


def test_the_configuration_of_a_checkout():
    assert configuration() == ROOT / "conf"


@pytest.mark.parametrize("word,hint", [("reprot", "report"), ("wanda", "method=wanda")])
def test_a_word_that_is_no_option(word, hint):
    ended = command(word)
    assert ended.status == 1
    assert ended.err.startswith(f"error: got {word}: expected key=value")
    assert f"Did you mean {hint}?" in ended.err


def test_a_command_beside_the_runs():
    run(*MEASURED, "method=wanda", into="outputs/study/one")
    ended = command("report", "outputs")
    assert ended.status == 0, ended.err
    assert Path("outputs/report.html").is_file()
    assert command("report", "nowhere").status == 1

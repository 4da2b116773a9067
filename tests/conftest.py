"""Fixtures that several files use."""

from __future__ import annotations

import surroundings  # noqa: F401  # first: what is imported below reads the environment

# isort: split
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import MEASURED, Run, run, workplace
from huggingface_hub import constants
from task_data import DATA, lay_out

pytest_plugins = ("browser", "option_values")
pytest.register_assert_rewrite("contract")  # its checks show what they compared, as a test does


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """Where the test works, with texts and a cache of its own."""
    with workplace(tmp_path) as folder:
        yield folder


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One whole run with a checkpoint, for the tests that only look."""
    with workplace(tmp_path_factory.mktemp("saved")):
        return run(*MEASURED, "method=wanda", "save=true")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may wait for a hub: a connection that is tried fails at once."""

    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("no network in this test")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refused)


@pytest.fixture
def no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`datasets` leaves a lock file for whatever it reads, even a stream."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def tasks(work: Path, no_traces: None) -> Path:
    """Task files of lm-eval over a few documents each."""
    from sparsity.runs.tasks import write  # heavy, and few tests need it

    write(lay_out(work / "data", DATA), work / "tasks")
    return work / "tasks"


@pytest.fixture
def few_stock_tasks(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder in the place of lm-eval's own tasks, which take ten seconds to list."""
    import lm_eval.tasks.manager as manager

    from sparsity.evaluation import harness

    (work / "stock").mkdir()
    (work / "stock" / "arc_easy.yaml").write_text("task: arc_easy\ntag: ai2_arc\n")
    (work / "stock" / "stock_only.yaml").write_text("task: stock_only\ntag: ai2_arc\n")
    monkeypatch.setattr(manager, "__file__", str(work / "stock" / "manager.py"))
    harness.manager.cache_clear()

"""Fixtures that several files use."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, chromium, page  # noqa: F401 (fixtures)
from commands import MEASURED, Run, run, workplace
from huggingface_hub import constants

pytest.register_assert_rewrite("contract")  # its checks show what they compared, as a test does


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a Chromium the tests that need one are left out, not skipped: nothing was attempted."""
    if CHROMIUM is None and (left_out := [item for item in items if item.get_closest_marker("browser")]):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CHROMIUM is None:
        terminalreporter.write_line("no chromium on PATH: the browser tests were left out")


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

"""Built folders are complete or absent, checked, and built by one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparsity.core import UserError
from sparsity.record import folders as cache
from sparsity.record.folders import MANIFEST, built, cache_dir

pytestmark = pytest.mark.usefixtures("no_network")


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSITY_CACHE", raising=False)
    assert cache_dir().name == "sparsity-lab"
    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("SPARSITY_CACHE", "~/here")
    assert cache_dir() == Path.home() / "here"


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_bytes(b"0123456789")
    (folder / "config").write_bytes(b"{}")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "config").unlink(), "config is missing"),
        (lambda folder: os.truncate(folder / "inner" / "weights", 3), "inner/weights has 3 bytes, not 10"),
        (lambda folder: (folder / "inner" / "weights").write_bytes(b"0123456780"), "inner/weights has changed"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json is missing or not readable"),
    ],
)
def test_a_damaged_folder_is_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], Any], says: str
) -> None:
    folder = built(tmp_path / "thing", fill)
    built(folder, lambda _: pytest.fail("it was there"))
    assert not caplog.messages
    harm(folder)
    built(folder, fill)
    assert [says in message for message in caplog.messages] == [True]
    assert cache.damage(folder) is None
    assert (folder / "inner" / "weights").read_bytes() == b"0123456789"


def test_nothing_is_left_of_a_build_that_fails_or_is_killed(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("half way")

    (tmp_path / "thing.part-killed").mkdir()
    with pytest.raises(RuntimeError, match="half way"):
        built(tmp_path / "thing", fails)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_folder_is_whole_from_the_moment_it_has_its_name(tmp_path: Path) -> None:
    def watched(folder: Path) -> None:
        fill(folder)
        assert not (tmp_path / "thing").exists()
        assert folder.parent == tmp_path  # the same file system, so that the rename is atomic

    built(tmp_path / "thing", watched)
    assert (tmp_path / "thing").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "thing" / "inner" / "weights").stat().st_mode & 0o777 == 0o644


def test_two_processes_build_once(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        with (tmp_path / "builds").open("a") as file:
            file.write(".")
        time.sleep(0.3)
        fill(folder)

    fork = multiprocessing.get_context("fork")  # nothing to import again
    both = [fork.Process(target=built, args=(tmp_path / "thing", build)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "builds").read_text() == "."
    assert cache.damage(tmp_path / "thing") is None


def test_two_threads_build_once_and_the_second_says_that_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    builds, begun = [], threading.Event()

    def build(folder: Path) -> None:
        builds.append(folder)
        begun.set()
        patience = time.monotonic() + 10
        while "waiting for it" not in caplog.text and time.monotonic() < patience:
            time.sleep(0.01)
        fill(folder)

    first = threading.Thread(target=built, args=(tmp_path / "thing", build))
    first.start()
    begun.wait()
    built(tmp_path / "thing", build)
    first.join()
    assert len(builds) == 1
    assert "waiting for it" in caplog.text


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(UserError, match=r"not yours.*SPARSITY_CACHE"):
        built(tmp_path / "thing", fill)

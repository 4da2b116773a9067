"""`make test-faults`: real processes, really killed, on full disks and over damaged files. No wrong number, no lost run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import MEASURED, SMALL, Run, process

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("work")]
HARNESS = Path(__file__).parents[1] / "help" / "harness.py"
BLOCKS = 6
WORDS = (*SMALL, *MEASURED, f"model.num_blocks={BLOCKS}", "method=sparsegpt", "corrector=greedy", "save=true")
PATIENCE = 120.0  # seconds


@contextlib.contextmanager
def started(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, str(HARNESS), *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(line, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}, **pipes) as child:
        try:
            yield child
        finally:
            child.kill()


def until(ready: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert child.poll() is None, child.stdout.read()
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.005)


def blocks(folder: Path) -> int:
    """How many are in the journal."""
    return len(list((folder / "journal").glob("[0-9]*.safetensors")))


def finished(*words: str, **environment: str) -> str:
    with started(*words, **environment) as child:
        out, _ = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, out
    return out


def same(a: Run, b: Run) -> None:
    assert a.result["mask_sha256"] == b.result["mask_sha256"]
    assert a.result["perplexity"] == b.result["perplexity"]
    assert (a.folder / "windows.csv").read_bytes() == (b.folder / "windows.csv").read_bytes()
    for name, weight in a.weights.items():
        assert torch.equal(weight, b.weights[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs that nobody interrupted."""
    from commands import workplace

    with workplace(tmp_path_factory.mktemp("whole")):
        found = {}
        for propagate in ("pruned", "dense"):
            finished(*WORDS, f"calibration.propagate={propagate}", f"hydra.run.dir={propagate}")
            found[propagate] = Run(Path(propagate).absolute())
        return found


@pytest.mark.parametrize("draw", range(10))
def test_a_run_killed_at_any_moment_goes_on(whole, draw):
    source = random.Random(draw)
    propagate = ("pruned", "dense")[draw % 2]
    words = (*WORDS, f"calibration.propagate={propagate}", "hydra.run.dir=run")
    wanted = source.randint(1, BLOCKS - 1)
    with started(*words, SLOW="0.03") as child:
        until(lambda: blocks(Path("run")) >= wanted, child)
        time.sleep(source.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = blocks(Path("run"))
    assert 0 < done < BLOCKS
    assert not Path("run/result.json").exists()
    out = finished(*words, COUNTED="counted")
    again = Path("counted").read_text().split("\n")
    assert len([line for line in again if "proj" in line]) == 7 * (BLOCKS - done), out
    if propagate == "pruned":
        first = min(int(line.split()[1]) for line in again if line.startswith("pass"))
        assert first == done  # no forward pass of a finished block
    same(Run(Path("run")), whole[propagate])
    assert Run(Path("run")).result["resumed"] == [done]


@pytest.mark.parametrize("part", ["003", "hidden-003", "layers.csv", "windows.csv", "result.json"])
def test_a_run_killed_inside_a_write_goes_on(whole, part):
    words = (*WORDS, "hydra.run.dir=run")
    with started(*words, STALL=part) as child:
        assert any("STALLED" in line for line in child.stdout)
        child.send_signal(signal.SIGKILL)
        child.wait()
    done = blocks(Path("run"))
    finished(*words, COUNTED="counted")
    pruned = Path("counted").read_text().count("proj") if Path("counted").exists() else 0
    assert pruned == 7 * (BLOCKS - done)
    same(Run(Path("run")), whole["pruned"])
    assert not [path for path in Path("run").iterdir() if path.name.startswith(".")]  # nothing half-written is left


SHARED = (*WORDS, "calibration.propagate=dense")


def kept() -> list[Path]:
    return sorted(Path("cache/statistics").glob("*/*.safetensors"))


def test_a_process_that_dies_while_it_collects_is_succeeded(whole):
    with started(*SHARED, "hydra.run.dir=a", SLOW="0.3") as first:
        until(lambda: len(kept()) >= 2, first)
        with started(*SHARED, "hydra.run.dir=b", COUNTED="counted") as second:
            time.sleep(3)  # it waits
            assert second.poll() is None
            first.send_signal(signal.SIGKILL)
            first.wait()
            out, _ = second.communicate(timeout=PATIENCE)
            assert second.returncode == 0, out
    assert len(kept()) == BLOCKS
    same(Run(Path("b")), whole["dense"])


def test_a_process_killed_while_it_writes_statistics_leaves_none_of_it(whole):
    with started(*SHARED, "hydra.run.dir=a", STALL="003-") as child:
        assert any("STALLED" in line for line in child.stdout)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert len(kept()) == 3
    finished(*SHARED, "hydra.run.dir=a")
    same(Run(Path("a")), whole["dense"])


def test_four_processes_from_a_cold_cache_collect_once(whole):
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(started(*SHARED, f"hydra.run.dir={i}", COUNTED=f"counted{i}", OMP_NUM_THREADS="1"))
            for i in range(4)
        ]
        for child in children:
            out, _ = child.communicate(timeout=2 * PATIENCE)
            assert child.returncode == 0, out
    known = [path for path in Path("cache/dense").iterdir() if path.suffix == ".safetensors"]
    assert len(known) == 1
    passes = [Path(f"counted{i}").read_text().count("pass") for i in range(4)]
    assert sorted(passes) == [0, 0, 0, BLOCKS]
    assert len({Run(Path(str(i))).result["mask_sha256"] for i in range(4)}) == 1


def test_a_full_disk_costs_the_cache_and_the_journal_but_not_the_run(whole):
    words = [word for word in SHARED if word != "save=true"]
    out = finished(*words, "hydra.run.dir=run", "cache.limit_gib=1", LIMIT="30000")
    assert "not kept in the cache: File too large" in out
    assert "no journal (File too large)" in out
    found = Run(Path("run"))
    assert found.result["mask_sha256"] == whole["dense"].result["mask_sha256"]
    assert found.result["perplexity"] == whole["dense"].result["perplexity"]
    assert kept() == []
    assert not [path for path in Path("cache").rglob("*") if path.is_file() and path.suffix != ".lock"
                and path.parent.name != "dense"]  # fmt: skip


def ends_full(limit: int) -> str:
    """What a run says that no file of more bytes can end, and that leaves none half written."""
    with started(*WORDS, "hydra.run.dir=run", "journal=false", LIMIT=str(limit)) as child:
        out, _ = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1
    assert "Traceback" not in out
    assert not [path for path in Path("run").iterdir() if path.name.startswith(".")]
    return out


def test_a_full_disk_at_the_checkpoint_is_said_and_nothing_half_is_left(whole):
    assert "checkpoint" in ends_full(30_000)
    assert not Path("run/result.json").exists()
    assert not Path("run/model").exists()
    finished(*WORDS, "hydra.run.dir=run")
    same(Run(Path("run")), whole["pruned"])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_in_any_kept_file_is_named_and_costs_nothing_but_time(whole):
    finished(*SHARED, "hydra.run.dir=a")
    files = [path for path in sorted(Path("cache").rglob("*")) if path.is_file() and path.suffix == ".safetensors"]
    kinds = {path.relative_to("cache").parts[0] for path in files}
    assert kinds == {"dense", "statistics"}
    for path in files:
        flip(path)
    out = finished(*SHARED, "hydra.run.dir=b")
    assert out.replace("\n", "").count("is damaged") == len(files)
    same(Run(Path("b")), whole["dense"])


def test_a_disk_that_is_full_of_tables_is_said(whole):
    assert "cannot be written (File too large)" in ends_full(3_000)


@pytest.mark.parametrize("name", ["environment.json", "config.yaml", "layers.csv"])
def test_a_flipped_byte_in_an_unfinished_runs_file_is_no_obstacle(whole, name):
    words = (*WORDS, "hydra.run.dir=run")
    with started(*words, SLOW="0.05") as child:
        until(lambda: blocks(Path("run")) >= 2, child)
        child.send_signal(signal.SIGKILL)
        child.wait()
    data = bytearray(Path("run", name).read_bytes())
    data[0] ^= 0x80  # no longer UTF-8
    Path("run", name).write_bytes(data)
    finished(*words)
    same(Run(Path("run")), whole["pruned"])


def test_a_damaged_result_is_named(whole):
    finished(*WORDS, "hydra.run.dir=run")
    Path("run/result.json").write_bytes(Path("run/result.json").read_bytes()[:100])
    ended = process(*WORDS, "hydra.run.dir=run")
    assert ended.returncode == 1
    assert "cannot be read" in ended.stderr
    assert "Delete it to run again" in ended.stderr
    Path("run/result.json").unlink()
    finished(*WORDS, "hydra.run.dir=run")
    assert json.loads(Path("run/result.json").read_text())["mask_sha256"] == whole["pruned"].result["mask_sha256"]

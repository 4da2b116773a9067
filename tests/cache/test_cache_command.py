"""python -m sparsity.cache: what is kept, whether it is whole, and how to be rid of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from commands import MEASURED, run

from sparsity.cache.__main__ import main

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture
def filled(work: Path) -> Path:
    """A cache with an evaluation and two walks, the one of seed 1 used last."""
    for seed in (0, 1):
        run(*MEASURED, "calibration.propagate=dense", f"calibration.seed={seed}", into=str(seed))
    old, _ = sorted((work / "cache" / "statistics").glob("*/"), key=lambda path: path.stat().st_mtime)
    for path in old.iterdir():
        os.utime(path, (time.time() - 10 * 86_400,) * 2)
    return work / "cache"


def walks(cache: Path) -> list[Path]:
    return [path for path in (cache / "statistics").glob("*") if path.is_dir()]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_list_says_what_is_kept(filled, capsys):
    assert main(["list"]) == 0
    out = said(capsys)
    assert out.count("tiny on 4 x 32 tokens") == 2
    assert "Perplexity(seqlen=32, windows=6" in out
    assert main(["list", "dense"]) == 0
    assert "tiny on" not in said(capsys)


def test_verify_names_what_is_damaged(filled, capsys):
    assert main(["verify"]) == 0
    assert "3 checked, 0 files damaged" in said(capsys)
    file = next(walks(filled)[0].glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["verify"]) == 1
    out = said(capsys)
    assert file.name in out.replace(" ", "")
    assert "1 files damaged" in out
    assert main(["list"]) == 0  # the walk's other file still says what it is
    assert said(capsys).count("tiny on") == 2


def test_prune_keeps_what_was_used_last(filled, capsys):
    size = sum(path.stat().st_size for path in filled.rglob("*.safetensors"))
    assert main(["prune", "--to", str(0.7 * size / 2**30)]) == 0
    assert len(walks(filled)) == 1
    assert all(time.time() - path.stat().st_mtime < 86_400 for path in walks(filled)[0].iterdir())
    assert len(list((filled / "dense").glob("*.safetensors"))) == 1


def test_prune_by_age_and_what_killed_processes_left(filled, capsys):
    walk = next(path for path in walks(filled) if time.time() - next(path.iterdir()).stat().st_mtime < 86_400)
    for name, age in ((".000-abc.01234567", 7200), (".001-abc.01234567", 0)):
        (walk / name).write_bytes(b"half")
        os.utime(walk / name, (time.time() - age,) * 2)
    assert main(["prune", "--older", "5"]) == 0
    assert walks(filled) == [walk]
    assert not (walk / ".000-abc.01234567").exists()
    assert (walk / ".001-abc.01234567").exists()  # somebody may be writing it


def test_clear(filled, capsys):
    assert main(["clear", "statistics"]) == 0
    assert walks(filled) == []
    assert list((filled / "dense").iterdir())
    assert main(["clear"]) == 0
    assert not (filled / "dense").exists()


def test_an_unknown_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["list", "dreams"])
    assert "expected dense, statistics, models" in capsys.readouterr().err


def test_an_empty_cache_is_no_mistake(capsys):
    for words in (["list"], ["verify"], ["prune", "--to", "1"], ["clear"]):
        assert main(words) == 0

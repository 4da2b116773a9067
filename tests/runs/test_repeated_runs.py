"""Finished, unfinished, repeated: a result is computed once, completely, and over nobody else's files."""

from pathlib import Path

import pytest
from commands import MEASURED, SMALL, UNMEASURED, Run, command, folders, refuse, run

from sparsity.models import Tiny
from sparsity.stream import BlockStream

pytestmark = pytest.mark.usefixtures("work")


def without_seconds(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]


def test_the_same_command_twice_is_the_same_to_the_last_bit():
    common = (*MEASURED, "method=sparsegpt", "layer_error=true", "rerun=true")
    a, b, other = run(*common, into="a"), run(*common, into="b"), run(*common, "seed=1", into="c")
    assert a.result["mask_sha256"] == b.result["mask_sha256"]
    assert without_seconds(a.layers) == without_seconds(b.layers)
    assert a.windows == b.windows
    assert a.result["run_key"] == b.result["run_key"]
    assert other.result["mask_sha256"] != a.result["mask_sha256"]
    assert other.result["run_key"] != a.result["run_key"]


def test_a_finished_run_is_not_repeated(monkeypatch):
    first = command(*SMALL, *MEASURED)
    with monkeypatch.context() as patch:
        patch.setattr(Tiny, "load", refuse)  # no model, so no forward pass
        again = command(*SMALL, *MEASURED)
    assert again.status == 0, again.err
    assert "finished earlier" in again.out
    assert len(folders()) == 1
    assert folders()[0].name in again.out
    figure = f"{Run(folders()[0]).result['perplexity']['pruned']:.2f}"
    assert figure in first.out
    assert figure in again.out
    assert command(*SMALL, *MEASURED, "rerun=true").status == 0
    assert len(folders()) == 2


def test_what_changes_a_result_changes_the_key(work):
    """Another option, another text of the same name: other runs. Another name, place or unread sparsity: the same."""
    key = run(UNMEASURED, "pattern=2of4", into="a").result["run_key"]
    assert run(UNMEASURED, "pattern=2of4", "sparsity=0.7", "name=other", into="b").result["run_key"] == key
    assert run(UNMEASURED, "pattern=2of4", "calibration.batch_size=2", into="c").result["run_key"] != key
    (work / "calibration.txt").write_text((work / "calibration.txt").read_text() + " more")
    assert run(UNMEASURED, "pattern=2of4", into="d").result["run_key"] != key


def test_an_unfinished_folder_is_done_again():
    whole = run(*MEASURED)
    first = whole.result
    (whole.folder / "result.json").unlink()
    again = run(*MEASURED)
    assert again.result["mask_sha256"] == first["mask_sha256"]
    assert again.result["perplexity"] == first["perplexity"]


def test_a_run_that_broke_in_the_middle_is_done_again(monkeypatch):
    observe = BlockStream.observe

    def breaks(self, block, needs):
        if block.index == 1:
            raise RuntimeError("the power is gone")
        return observe(self, block, needs)

    with monkeypatch.context() as patch:
        patch.setattr(BlockStream, "observe", breaks)
        with pytest.raises(RuntimeError, match="the power is gone"):
            run(*MEASURED)
    broken = Run(Path("run").absolute())
    assert not (broken.folder / "result.json").exists()
    assert [row["block"] for row in broken.layers] == ["0"] * 7  # what was done is on record
    whole = run(*MEASURED)
    assert whole.result["mask_sha256"] == run(*MEASURED, into="elsewhere").result["mask_sha256"]
    assert len(whole.layers) == 14


def test_a_folder_with_another_finished_run_is_kept(monkeypatch):
    before = (run(UNMEASURED, "save=true").folder / "result.json").read_bytes()
    monkeypatch.setattr(Tiny, "load", refuse)
    ended = command(*SMALL, UNMEASURED, "hydra.run.dir=run", "sparsity=0.6")
    assert ended.status == 1
    assert "holds another finished run" in ended.err
    assert "rerun=true" in ended.err
    assert Path("run/result.json").read_bytes() == before


def test_a_replaced_run_leaves_nothing_of_itself():
    run(*MEASURED, "save=true")
    found = run(UNMEASURED, "sparsity=0.6", "rerun=true")
    assert {path.name for path in found.folder.iterdir()} == {
        "config.yaml", "environment.json", "layers.csv", "result.json",
    }  # fmt: skip


def test_a_folder_that_is_no_run_is_not_written_to(work):
    (work / "mine" / "model").mkdir(parents=True)
    (work / "mine" / "model" / "thesis.txt").write_text("years")
    ended = command(*SMALL, UNMEASURED, "save=true", "hydra.run.dir=mine")
    assert ended.status == 1
    assert "expected an empty folder" in ended.err
    assert [path.name for path in (work / "mine").rglob("*")] == ["model", "thesis.txt"]

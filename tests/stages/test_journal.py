"""A run that was interrupted goes on behind its last block, and ends as if nothing had happened, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import MEASURED, SMALL, UNMEASURED, Ended, Run, command, folders, run
from interrupted import FOUR, Killed, killed, same

from sparsity import engine, notes
from sparsity.evaluation import Perplexity
from sparsity.notes import part_by_part
from sparsity.stages import journal

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture
def layers(monkeypatch) -> list[str]:
    """Grows by the name of every layer that is pruned."""
    seen, inner = [], engine._prune_layer

    def counted(plan, block, site, *rest):
        seen.append(site.name)
        return inner(plan, block, site, *rest)

    monkeypatch.setattr(engine, "_prune_layer", counted)
    return seen


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
@pytest.mark.parametrize("at", ["layers.1.self_attn.q_proj", "layers.2.mlp.up_proj", "layers.3.mlp.down_proj"])
def test_a_killed_run_goes_on_behind_its_last_block(monkeypatch, layers, propagate, at):
    words = (*MEASURED, "method=sparsegpt", "corrector=greedy", f"calibration.propagate={propagate}", "save=true")
    words += ("calibration.held_out=2",)
    whole = run(*FOUR, *words, into="whole")
    killed(monkeypatch, *words, at=at)
    [folder] = folders()
    layers.clear()
    ended = command(*SMALL, *FOUR, *words)
    assert ended.status == 0, ended.err
    block = int(at.split(".")[1])
    assert f"resuming at block {block + 1} of 4" in ended.out
    assert len(layers) == 7 * (4 - block)  # finished blocks are not done again
    assert folders() == [folder]  # it went on where it was
    same(Run(folder), whole)
    assert Run(folder).result["resumed"] == [block]
    assert not (folder / "journal").exists()
    assert whole.result["resumed"] == []


@pytest.mark.parametrize("target", ["dense", "own"])
def test_a_refined_run_goes_on_with_both_streams_and_all_rows(monkeypatch, target):
    words = (*MEASURED, "method=wanda", "refine=block", f"refine.target={target}", "refine.epochs=2", "save=true")
    words += ("calibration.batch_size=1", "calibration.held_out=2")
    whole = run(*FOUR, *words, into="whole")
    killed(monkeypatch, *words, at="layers.2.mlp.up_proj")
    assert command(*SMALL, *FOUR, *words).status == 0
    [folder] = folders()
    same(Run(folder), whole)
    tables = [
        [line.rpartition(",")[0] for line in (at / "blocks.csv").read_text().splitlines()]
        for at in (folder, Path("whole"))
    ]
    assert tables[0] == tables[1]  # but for the seconds
    assert len(tables[0]) == 5


def test_a_run_may_be_interrupted_again_and_again(monkeypatch):
    words = (*MEASURED, "method=wanda", "corrector=optimal", "save=true")
    for block in (1, 2, 3):
        killed(monkeypatch, *words, at=f"layers.{block}.mlp.gate_proj")
    assert command(*SMALL, *FOUR, *words).status == 0
    [folder] = folders()
    assert Run(folder).result["resumed"] == [1, 2, 3]
    same(Run(folder), run(*FOUR, *words, into="whole"))


def test_a_run_that_was_killed_while_it_was_measured_only_measures(monkeypatch, layers):
    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Perplexity, "compare", dies)
        with pytest.raises(Killed):
            command(*SMALL, *FOUR, *MEASURED, "save=true")
    layers.clear()
    assert command(*SMALL, *FOUR, *MEASURED, "save=true").status == 0
    assert layers == []
    [folder] = folders()
    same(Run(folder), run(*FOUR, *MEASURED, "save=true", into="whole"))


def test_a_named_folder_is_continued(monkeypatch, layers):
    killed(monkeypatch, UNMEASURED, "hydra.run.dir=here", at="layers.2.self_attn.q_proj")
    layers.clear()
    run(*FOUR, UNMEASURED, into="here")
    assert len(layers) == 14


def test_other_options_do_not_go_on_with_it(monkeypatch, layers):
    killed(monkeypatch, UNMEASURED, at="layers.2.self_attn.q_proj")
    layers.clear()
    assert command(*SMALL, *FOUR, UNMEASURED, "sparsity=0.6").status == 0
    assert len(layers) == 28
    assert len(folders()) == 2


def test_rerun_starts_again(monkeypatch, layers):
    killed(monkeypatch, UNMEASURED, at="layers.2.self_attn.q_proj")
    layers.clear()
    assert command(*SMALL, *FOUR, UNMEASURED, "rerun=true").status == 0
    assert len(layers) == 28


def test_other_conditions_are_named_and_start_again(monkeypatch, layers):
    words = (*MEASURED, "method=sparsegpt", "save=true")
    killed(monkeypatch, *words, at="layers.2.self_attn.q_proj")
    layers.clear()
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    ended = command(*SMALL, *FOUR, *words)
    assert f"threads {threads}, now {threads + 1}" in ended.out
    assert len(layers) == 28


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:100] + bytes([data[100] ^ 1]) + data[101:]


@pytest.mark.parametrize("harm", [cut, flip])
@pytest.mark.parametrize("file", ["000-*", "001-*", "hidden-002-*"])
def test_a_damaged_journal_is_named_and_not_used(monkeypatch, harm: Callable[[bytes], bytes], file):
    words = (*MEASURED, "method=sparsegpt", "save=true")
    killed(monkeypatch, *words, at="layers.2.self_attn.q_proj")
    [folder] = folders()
    [path] = (folder / "journal").glob(file)
    path.write_bytes(harm(path.read_bytes()))
    ended = command(*SMALL, *FOUR, *words)
    assert ended.status == 0, ended.err
    assert f"{path.name} is damaged" in ended.out.replace("\n", "")
    same(Run(folder), run(*FOUR, *words, into="whole"))


def test_a_journal_that_cannot_be_written_ends_and_the_run_does_not(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "write", full)
    ended = command(*SMALL, UNMEASURED)
    assert ended.status == 0, ended.err
    assert ended.out.count("no journal (No space left on device)") == 1


def test_journal_false_writes_none(monkeypatch, layers):
    killed(monkeypatch, UNMEASURED, "journal=false", at="layers.2.self_attn.q_proj")
    assert not list(Path("outputs").rglob("journal"))
    layers.clear()
    assert command(*SMALL, *FOUR, UNMEASURED, "journal=false").status == 0
    assert len(layers) == 28


def test_two_processes_do_not_write_one_run():
    from sparsity.record.store import RunStore

    Path("run").mkdir()
    with RunStore(Path("run").absolute()).alone() as alone:
        assert alone
        ended: Ended = command(*SMALL, UNMEASURED, "hydra.run.dir=run")
    assert ended.status == 1
    assert "is being written by another process" in ended.err
    assert command(*SMALL, UNMEASURED, "hydra.run.dir=run").status == 0


def _parts(run: Path, results: list[float], every: float, stop: int | None = None) -> list[float]:
    """The results of a computation that works part by part and keeps notes in the journal; it is killed after `stop` parts."""
    kept = journal.Journal(run, {})
    given = []
    try:
        compute = lambda parts: (torch.tensor([part]) for part in parts)  # noqa: E731
        for number, found in enumerate(part_by_part(kept.notes("evaluate-dense"), results, compute, every)):
            given.append(found.item())
            if number + 1 == stop:
                break
    finally:
        kept.close()
    return given


def test_notes_behind_a_gap_are_not_read_after_it_is_filled(tmp_path):
    """The note that fills the gap may hold fewer parts: the next one then has the results of other parts."""
    results = [float(i) for i in range(12)]
    clock = iter(range(1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notes.time, "monotonic", lambda: next(clock))
        _parts(tmp_path, results, every=3, stop=11)  # three notes of three parts each
    [second] = (tmp_path / "journal").glob("evaluate-dense.000001-*")
    second.unlink()
    _parts(tmp_path, results, every=0, stop=4)  # one note of one part
    assert _parts(tmp_path, results, every=0) == results


def test_a_note_that_was_killed_in_the_middle_leaves_nothing_to_the_next_of_its_number(tmp_path):
    run = journal.Journal(tmp_path, {})
    for old in range(8):  # which of two files of one name would be read depends on their digests
        stage = run.notes(f"recover{old}")
        stage.add({"step": 1}, {"weight": torch.tensor([float(old)]), "best": torch.tensor([float(old)])})
        [own] = (tmp_path / "journal").glob(f"recover{old}.000000-*")
        own.unlink()  # it is written last
        again = run.notes(f"recover{old}")
        assert again.read() == []
        again.add({"step": 2}, {"weight": torch.tensor([100.0 + old]), "best": torch.tensor([100.0 + old])})
        [note] = run.notes(f"recover{old}").read()
        assert {name: tensor.item() for name, tensor in note.tensors.items()} == {
            "weight": 100.0 + old,
            "best": 100.0 + old,
        }
    run.close()

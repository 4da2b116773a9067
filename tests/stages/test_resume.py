"""Every stage resumes where it was interrupted: within a recovery, within an evaluation, behind an evaluator that had finished."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from commands import MEASURED, SMALL, Run, command, folders, run
from interrupted import FOUR, Killed, same

from sparsity import notes, tuning
from sparsity.evaluation import Divergence, Perplexity, divergence, perplexity
from sparsity.recover import Distillation
from sparsity.recover.distillation import _Student
from sparsity.stages import journal

pytestmark = pytest.mark.usefixtures("work")
RECOVERED = (
    *FOUR, *MEASURED, "method=wanda", "recover=distill", "calibration.batch_size=1", "recover.held_out=0.25", "recover.epochs=3",
    "save=true",
)  # fmt: skip


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """A note after every step and every part."""
    monkeypatch.setattr(tuning, "EVERY", 0.0)
    monkeypatch.setattr(notes.part_by_part, "__defaults__", (0.0,))


def counted(monkeypatch, cls, name, stop=None):
    """Calls of a method. It dies at call number `stop`."""
    calls, inner = [], getattr(cls, name)

    def instead(self, *arguments):
        if len(calls) == stop:
            raise Killed
        calls.append(arguments)
        return inner(self, *arguments)

    monkeypatch.setattr(cls, name, instead)
    return calls


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_recovery_resumes_at_the_step_it_had_reached(monkeypatch, stop):
    whole = run(*RECOVERED, into="whole")
    with monkeypatch.context() as patch:
        counted(patch, _Student, "slope", stop)
        with pytest.raises(Killed):
            command(*SMALL, *RECOVERED)
    steps = counted(monkeypatch, _Student, "slope")
    assert command(*SMALL, *RECOVERED).status == 0
    [folder] = folders()
    assert len(steps) == 3 * 3 - stop
    same(Run(folder), whole)
    assert Run(folder).result["recovery"] == whole.result["recovery"]
    assert (folder / "recovery.csv").read_text() == (Path("whole") / "recovery.csv").read_text()
    assert not (folder / "journal").exists()


def test_a_recovery_does_not_change_weights_that_are_still_being_written(monkeypatch):
    """It tunes a float32 model in place. The last block of the journal must hold the weights that it began with."""
    whole, inner = run(*RECOVERED, into="whole"), journal.content_of

    def slow(*arguments):
        time.sleep(0.3)
        return inner(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "content_of", slow)
        patch.setattr(tuning, "EVERY", 300.0)  # no note before the interruption
        counted(patch, _Student, "slope", 2)
        with pytest.raises(Killed):
            command(*SMALL, *RECOVERED)
    assert command(*SMALL, *RECOVERED).status == 0
    [folder] = folders()
    same(Run(folder), whole)
    assert Run(folder).result["recovery"] == whole.result["recovery"]


def test_a_finished_recovery_is_not_repeated_when_the_evaluation_is_interrupted(monkeypatch):
    whole = run(*RECOVERED, into="whole")
    with monkeypatch.context() as patch:
        counted(patch, Perplexity, "compare", 0)
        with pytest.raises(Killed):
            command(*SMALL, *RECOVERED)
    steps = counted(monkeypatch, _Student, "slope")
    assert command(*SMALL, *RECOVERED).status == 0
    assert steps == []
    [folder] = folders()
    same(Run(folder), whole)
    assert Run(folder).result["recovery"] == whole.result["recovery"]


@pytest.mark.parametrize(
    ("module", "function", "evaluation"), [(perplexity, "nll", "perplexity"), (divergence, "_of_batch", "divergence")]
)
@pytest.mark.parametrize("stop", [1, 4, 7, 10])
def test_an_evaluation_resumes_at_the_window_it_had_reached(monkeypatch, module, function, evaluation, stop):
    """Six windows of the dense model, then six of the pruned one; the divergence counts the pruned one's alone."""
    one = f"evaluation.{evaluation}.batch_size=1"
    words = (
        *FOUR,
        "method=wanda",
        f"evaluation=[{evaluation}]",
        one,
        *(word.replace("perplexity", evaluation) for word in MEASURED),
    )
    whole = run(*words, into="whole")
    (Path("cache") / "dense").rename("elsewhere")
    inner, calls = getattr(module, function), []

    def measured(limit):
        def instead(*arguments):
            if len(calls) == limit:
                raise Killed
            calls.append(arguments)
            return inner(*arguments)

        return instead

    with monkeypatch.context() as patch:
        patch.setattr(module, function, measured(stop))
        try:
            assert command(*SMALL, *words).status == 0
        except Killed:
            before = len(calls)
            calls.clear()
            patch.setattr(module, function, measured(None))
            assert command(*SMALL, *words).status == 0
            assert before == stop
            assert len(calls) == (12 if evaluation == "perplexity" else 6) - stop
    [folder] = folders()
    assert Run(folder).result["evaluation"] == whole.result["evaluation"]
    table = "windows" if evaluation == "perplexity" else "divergence"
    assert Run(folder).table(table) == whole.table(table)


def test_an_evaluator_that_had_finished_is_not_asked_again(monkeypatch):
    words = (*FOUR, *MEASURED, "evaluation=[perplexity,divergence]", "evaluation.divergence.seqlen=32")
    whole = run(*words, into="whole")
    with monkeypatch.context() as patch:
        counted(patch, Divergence, "compare", 0)
        with pytest.raises(Killed):
            command(*SMALL, *words)
    asked = counted(monkeypatch, Perplexity, "compare")
    assert command(*SMALL, *words).status == 0
    assert asked == []
    [folder] = folders()
    assert Run(folder).result["evaluation"] == whole.result["evaluation"]
    assert Run(folder).windows == whole.windows


def test_a_weight_that_its_mask_removed_must_be_zero(monkeypatch):
    inner = Distillation.recover

    def grows(self, decoder, *rest):
        found, site = inner(self, decoder, *rest), decoder.sites[0]
        decoder.blocks[0].write(site, torch.ones_like(decoder.layer(site).weight_OI))
        return found

    monkeypatch.setattr(Distillation, "recover", grows)
    with pytest.raises(
        RuntimeError, match=r"layers\.0\.self_attn\.q_proj: \d+ weights are not zero, and its mask has \d+ survivors"
    ):
        command(*SMALL, *RECOVERED)

"""A sweep leaves one table of all its points, whatever became of each, and says at its end what failed and why."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from commands import MEASURED, SMALL, UNMEASURED, Run, command

from sparsity import engine
from sparsity.models import Decoder, Tiny
from sparsity.runs import launch
from sparsity.stages import loading as dense

pytestmark = pytest.mark.usefixtures("work")
GRID = ("-m", *SMALL, *MEASURED, "method=wanda,magnitude", "calibration.propagate=dense", "hydra.sweep.dir=sweep")


def table(sweep: str = "sweep") -> list[dict[str, str]]:
    with Path(sweep, "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_row_for_every_point():
    ended = command(*GRID, "sparsity=0.5,0.6")
    assert ended.status == 0, ended.err
    rows = table()
    assert [(row["point"], row["method"], row["sparsity"]) for row in rows] == [
        ("0", "wanda", "0.5"), ("1", "wanda", "0.6"), ("2", "magnitude", "0.5"), ("3", "magnitude", "0.6"),
    ]  # fmt: skip
    for row in rows:
        result = Run(Path(row["folder"])).result
        assert row["status"] == "finished"
        assert float(row["perplexity.pruned"]) == result["perplexity"]["pruned"]
        assert row["mask_sha256"] == result["mask_sha256"]
    assert "4 of 4 points finished" in ended.out
    assert f"to compare them: python -m sparsity.report {Path(rows[0]['folder']).parent}" in ended.out


@pytest.mark.parametrize(
    "words",
    [
        ("method=wanda,magnitude,sparsegpt,hybrid,neuronrank_old", "corrector=none,optimal,hessian"),
        ("corrector=none,optimal", "layer_error=auto,true"),
        ("method=hybrid", "tfidf=doc,topic", "tfidf.window=8,16", "corrector=none,greedy"),
        ("experiment=corrector_grid", "sparsity=0.4,0.5"),
    ],
    ids=" ".join,
)
def test_one_walk_serves_the_whole_grid(words):
    """Whatever its first point asks for: what the others will ask for is collected with it."""
    ended = command("-m", *SMALL, UNMEASURED, "calibration.propagate=dense", "hydra.sweep.dir=sweep", *words)
    assert ended.status == 0, ended.err
    folders = {row["folder"] for row in table()}  # tfidf=doc reads no window: such points are one run
    forwards = [Run(Path(folder)).result["calibration"]["block_forwards"] for folder in folders]
    assert [n for n in forwards if n] == [2]  # both blocks of the tiny model, once, in one batch


def test_an_option_that_one_point_lacks_stops_no_other():
    """`corrector.damp` exists for some correctors only; the point fails, in its turn, and the walk was made without it."""
    grid = ("-m", *SMALL, UNMEASURED, "calibration.propagate=dense", "hydra.sweep.dir=sweep", "method=wanda")
    ended = command(*grid, "corrector=none,optimal", "corrector.steps=2,3")
    assert ended.status == 1
    assert "corrector.steps" in ended.err


def test_what_is_too_much_to_keep_is_not_collected_for_others():
    grid = ("-m", *SMALL, UNMEASURED, "calibration.propagate=dense", "method=wanda")
    command(*grid, "corrector=none,optimal", "hydra.sweep.dir=a", "cache.limit_gib=0.0001")
    forwards = [Run(Path(row["folder"])).result["calibration"]["block_forwards"] for row in table("a")]
    assert forwards == [2, 2]


def test_a_failed_point_fails_alone_and_is_named_at_the_end():
    ended = command(*GRID, "sparsity=0.5,1.5")
    assert ended.status == 1
    assert [row["status"] for row in table()] == ["finished", "failed", "finished", "failed"]
    assert table()[1]["error"] == "sparsity=1.5 is not valid: expected a number >= 0 and < 1, such as 0.5"
    last = ended.out[ended.out.rindex("#1") :]
    assert "#1 method=wanda sparsity=1.5 failed: sparsity=1.5 is not valid" in last
    assert "#3 method=magnitude sparsity=1.5 failed" in last
    assert "2 of 4 points finished" in last


def test_the_same_command_runs_what_is_missing_and_the_table_has_all(monkeypatch):
    command(*GRID, "sparsity=0.5,1.5")
    seen, inner = [], engine._prune_layer

    def counted(plan, block, site, *rest):
        seen.append(plan.patterns[site].sparsity)
        return inner(plan, block, site, *rest)

    monkeypatch.setattr(engine, "_prune_layer", counted)
    ended = command(*GRID, "sparsity=0.5,0.6")
    assert ended.status == 0, ended.err
    assert set(seen) == {0.6}
    assert [row["status"] for row in table()] == ["finished"] * 4
    assert len({row["mask_sha256"] for row in table()}) == 4


def test_a_smaller_sweep_in_the_same_folder_has_a_smaller_table():
    assert command(*GRID, "sparsity=0.5,0.6").status == 0
    assert command(*GRID, "sparsity=0.6").status == 0
    assert [row["method"] for row in table()] == ["wanda", "magnitude"]


def test_ctrl_c_says_what_is_done_and_the_same_command_goes_on(monkeypatch):
    seen, inner = [], engine._prune_layer

    def interrupted(plan, block, site, *rest):
        seen.append(site.name)
        if len(seen) == 14 + 10:  # the second point's second block
            raise KeyboardInterrupt
        return inner(plan, block, site, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_prune_layer", interrupted)
        ended = command(*GRID, "sparsity=0.5,0.6")
    assert ended.status == 130
    assert "1 of 1 points finished" in ended.out
    assert "the same command resumes after the last finished block" in ended.err
    ended = command(*GRID, "sparsity=0.5,0.6")
    assert ended.status == 0, ended.err
    assert "resuming at block 2 of 2" in ended.out
    assert [row["status"] for row in table()] == ["finished"] * 4


def test_points_that_finished_in_an_earlier_sweep_stand_in_the_new_table():
    words = ("-m", *SMALL, *MEASURED, "method=wanda,magnitude")
    assert command(*words, "sparsity=0.5").status == 0
    assert command(*words, "sparsity=0.5,0.6").status == 0
    first, second = sorted(Path("outputs/runs").iterdir())
    rows = table(str(second))
    assert [Path(row["folder"]).parent.name for row in rows] == [first.name, second.name, first.name, second.name]
    assert all(float(row["perplexity.pruned"]) > 0 for row in rows)


def test_the_model_is_loaded_once_and_dense_again_for_every_point(monkeypatch):
    loads, load = [], Tiny.load

    def counted(self, dtype):
        loads.append(self)
        return load(self, dtype)

    monkeypatch.setattr(Tiny, "load", counted)
    monkeypatch.setattr(launch, "HELD", dense.Held())
    assert command(*GRID, "sparsity=0.5,0.6", "corrector=none,optimal").status == 0
    assert len(loads) == 1
    together = {(row["method"], row["corrector"], row["sparsity"]): row["mask_sha256"] for row in table()}
    for (method, corrector, sparsity), found in together.items():
        alone = command(*SMALL, *MEASURED, f"method={method}", f"corrector={corrector}", f"sparsity={sparsity}",
                        "calibration.propagate=dense", "hydra.run.dir=alone", "rerun=true")  # fmt: skip
        assert alone.status == 0, alone.err
        assert Run(Path("alone")).result["mask_sha256"] == found


def test_another_model_in_the_same_sweep_is_loaded(monkeypatch):
    assert command(*GRID, "model.seed=0,1", "sparsity=0.5").status == 0
    assert len({row["perplexity.dense"] for row in table()}) == 2
    assert len({row["mask_sha256"] for row in table()}) == 4


def test_a_model_that_cannot_be_restored_is_loaded_again(caplog):
    held, loads = dense.Held(), []

    def load():
        loads.append(1)
        return Tiny(seed=0, hidden_size=64, num_blocks=2, tie_word_embeddings=True).load(None)

    first = held.dense("a", load)
    first.decoder.layer(first.decoder.sites[0]).weight_OI.zero_()
    again = held.dense("a", load)
    assert again is first  # restored
    assert again.decoder.layer(first.decoder.sites[0]).weight_OI.any()
    next(iter(held._weights.values()))[0] += 1  # the copy itself is damaged
    third = held.dense("a", load)
    assert third is not first
    assert len(loads) == 2
    assert "could not be restored" in caplog.text
    assert Decoder(load().model).fingerprint() == third.fingerprint
    assert torch.is_tensor(third.ids("some text"))


def test_an_objective_that_names_no_number_is_told():
    ended = command("-m", *SMALL, *MEASURED, "sparsity=0.5", "hydra.sweep.dir=sweep", "objective=perplexity.prund")
    assert ended.status == 0, ended.err
    assert "objective=perplexity.prund is no number of this run's result" in " ".join(ended.out.split())
    ended = command("-m", *SMALL, *MEASURED, "sparsity=0.5", "hydra.sweep.dir=sweep", "objective=perplexity.pruned")
    assert "is no number" not in ended.out
    ended = command(
        "-m", *SMALL, UNMEASURED, "sparsity=0.5", "hydra.sweep.dir=other"
    )  # the default, which nobody typed
    assert "is no number" not in ended.out

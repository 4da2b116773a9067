"""What trackers are told, by which names, and that none of them can end a run or change what it finds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from commands import MEASURED, SMALL, UNMEASURED, command, run
from composing import assembled, key
from trackers import FAULTY, SPY, TOLD, Told

from sparsity.evaluation import Perplexity
from sparsity.record.store import RunStore
from sparsity.tracking import NoTracker, Trackio, WeightsAndBiases, told

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture(autouse=True)
def forget():
    TOLD.clear()


# --- the option -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("tracker=[wandb]", [WeightsAndBiases]),
        ("tracker=wandb", [WeightsAndBiases]),
        ("tracker=[trackio,wandb]", [Trackio, WeightsAndBiases]),
        ("tracker=[wandb,trackio]", [WeightsAndBiases, Trackio]),
        ("tracker=none", [NoTracker]),
        ("tracker=[]", []),
    ],
)
def test_one_several_or_none(word, found):
    assert [type(tracker) for tracker in assembled("model=tiny", word).tracker.values()] == found


def test_the_default_needs_no_account():
    assert [type(tracker) for tracker in assembled("model=tiny").tracker.values()] == [Trackio]


def test_an_option_of_a_tracker():
    trackers = assembled(
        "model=tiny", "tracker=wandb", "tracker.wandb.mode=offline", "tracker.wandb.tags=[a,b]"
    ).tracker
    assert (trackers["wandb"].mode, trackers["wandb"].tags) == ("offline", ["a", "b"])


def test_who_watches_changes_no_result():
    assert key("tracker=[]") == key("tracker=none") == key("tracker=wandb", "tracker.wandb.tags=[a]") == key()


def test_an_unknown_mode_is_a_mistake():
    ended = command(*SMALL, UNMEASURED, "tracker=wandb", "tracker.wandb.mode=sometimes")
    assert ended.status == 1
    assert "tracker.wandb.mode=sometimes" in ended.err
    assert "offline" in ended.err


# --- what is told -----------------------------------------------------------------------------------------------------


def numbers(node, path=()):
    """Every number below a node of JSON, by its path."""
    if isinstance(node, bool | str) or node is None:
        return {}
    if isinstance(node, int | float):
        return {"/".join(path): node}
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    return {name: value for key, below in pairs for name, value in numbers(below, (*path, str(key))).items()}


def test_the_numbers_of_the_files():
    found = run(*MEASURED, *SPY, "layer_error=true", "save=true")
    (told,) = TOLD
    (outcome,) = told.ends
    result = json.loads((found.folder / "result.json").read_text())
    assert outcome.summary == {
        name: value
        for name, value in numbers(result).items()
        if not name.startswith(("schema", "calibration/", "measures/"))
    }
    for name in ("perplexity/pruned", "evaluation/perplexity/dense", "sparsity/found", "seconds/prune",
                 "layers/relative_error_mean"):  # fmt: skip
        assert name in outcome.summary
    assert len(told.layers) == len(found.layers) == 14
    for row, layer in zip(found.layers, told.layers, strict=True):
        assert {name: str(value) for name, value in layer.items()} == {
            f"layer/{name}": cell for name, cell in row.items() if name not in ("name", "role", "method")
        }
    for name in ("layers", "windows"):
        with (found.folder / f"{name}.csv").open() as file:
            assert [{n: str(v) for n, v in row.items()} for row in outcome.tables[name]] == list(csv.DictReader(file))
        assert any(isinstance(value, float) for value in outcome.tables[name][0].values())
    assert {*outcome.tables} == {"layers", "windows"}
    assert outcome.checkpoint == found.checkpoint
    assert outcome.checkpoint.is_dir()


def test_what_starts():
    found = run(UNMEASURED, *SPY, "method=magnitude", "corrector=optimal", "sparsity=0.6", "seed=3", "name=study")
    (about,) = [told.about for told in TOLD]
    assert about.name == "magnitude · unstructured 0.6 · optimal · seed 3"
    assert (about.study, about.group, about.job_type, about.folder) == ("study", None, "run", found.folder)
    assert about.config["calibration"]["num_sequences"] == 4
    assert about.config["choices"]["method"] == "magnitude"
    assert about.config["run_key"] == found.result["run_key"]
    assert TOLD[0].ends[0].checkpoint is None


def test_the_points_of_a_sweep_are_a_group():
    words = ("-m", "method=magnitude,wanda", "calibration.propagate=pruned,dense", "hydra.sweep.dir=grid")
    ended = command(*SMALL, UNMEASURED, *SPY, *words)
    assert ended.status == 0, ended.err
    assert {(told.about.group, told.about.job_type) for told in TOLD} == {("grid", "sweep")}
    assert [told.about.name for told in TOLD] == [
        f"{method} · unstructured 0.5 · none · seed 0 · calibration.propagate={propagate}"
        for method in ("magnitude", "wanda")
        for propagate in ("pruned", "dense")
    ]
    assert len({told.about.id for told in TOLD}) == 4


def test_a_run_that_is_started_again_is_the_same_run(monkeypatch):
    for _ in range(2):
        run(UNMEASURED, *SPY, "rerun=true")
    run(UNMEASURED, *SPY, into="another")
    run(UNMEASURED, *SPY, "rerun=true", "sparsity=0.6")
    first, again, elsewhere, other = [told.about.id for told in TOLD]
    assert first == again
    assert len({first, elsewhere, other}) == 3


def test_nobody_is_told_of_a_plan_or_of_a_run_that_is_not_repeated():
    assert command(*SMALL, UNMEASURED, *SPY, "plan=true").status == 0
    assert TOLD == []
    run(UNMEASURED, *SPY)
    run(UNMEASURED, *SPY)
    assert len(TOLD) == 1


def test_a_column_is_of_one_kind_and_every_row_has_all_columns():
    rows = [{"a": 1, "b": "x", "d": True}, {"b": 2, "c": 0.5, "a": 0.25, "d": 3}]
    assert told.tables({"facts": rows}) == {
        "facts": [
            {"a": 1, "b": "x", "d": "True", "c": None},
            {"a": 0.25, "b": "2", "d": "3", "c": 0.5},
        ]
    }


def test_tables_come_from_memory(monkeypatch):
    """Whatever lies in the folder: the rows are those that the run made."""
    save = RunStore.csv
    monkeypatch.setattr(RunStore, "csv", lambda store, name, rows: save(store, name, rows[:1]))
    run(*MEASURED, *SPY, "refine=block", "refine.epochs=1", "recover=distill", "recover.epochs=1",
        "calibration.batch_size=1")  # fmt: skip
    (outcome,) = TOLD[0].ends
    assert {name: len(rows) for name, rows in outcome.tables.items()} == {
        "layers": 14, "blocks": 2, "recovery": 2, "windows": 6,
    }  # fmt: skip


def test_only_finite_numbers_are_told():
    row = {"a": 1.5, "b": None, "c": float("inf"), "d": float("nan"), "e": "x", "f": True}
    assert told.layer_numbers(row) == {"layer/a": 1.5}


# --- what fails -------------------------------------------------------------------------------------------------------


STEPS = ("start", "layer", "finish")


def test_a_tracker_that_fails_is_left_out_and_changes_nothing():
    plain = run(*MEASURED, into="plain")
    faulty = [
        word for step in STEPS for word in (f"+tracker.{step}._target_=trackers.Faulty", f"+tracker.{step}.at={step}")
    ]
    ended = command(*SMALL, *MEASURED, "hydra.run.dir=watched", *faulty, *SPY, "rerun=true")
    assert ended.status == 0, ended.err
    assert ended.err == ""
    for step in STEPS:
        assert ended.out.count(f"tracker={step} failed (OSError: [Errno 28] No space left on device)") == 1
    watched = json.loads(Path("watched/result.json").read_text())
    for name in ("mask_sha256", "perplexity", "sparsity"):
        assert watched[name] == plain.result[name]
    (told,) = TOLD  # the tracker beside them
    assert len(told.layers) == 14
    assert len(told.ends) == 1


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_run_that_fails_ends_as_failed(monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(Perplexity, "compare", broken)
    watchers = (*FAULTY, "+tracker.faulty.at=fail", *SPY[1:])  # one of them cannot even say so
    words = (*SMALL, *MEASURED, "hydra.run.dir=run", *watchers)
    if isinstance(error, KeyboardInterrupt):
        assert command(*words).status == 130
    else:
        with pytest.raises(RuntimeError, match="out of memory"):
            command(*words)
    (told,) = TOLD
    assert told.ends == [f"{type(error).__name__}: {error}"]
    assert not Path("run/result.json").exists()


def test_an_interruption_while_a_tracker_ends_leaves_the_result(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Told, "finish", interrupted)
    assert command(*SMALL, UNMEASURED, "hydra.run.dir=run", *SPY).status == 130
    assert Path("run/result.json").exists()
    assert TOLD[0].ends == []  # neither finished nor failed: it was told once

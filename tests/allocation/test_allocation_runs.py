"""An allocation in a run: exact totals in the model's own zeros, one measurement for many runs, the same shares on resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from commands import MEASURED, SMALL, UNMEASURED, Run, command, folders, refuse, run
from composing import key
from interrupted import FOUR, killed, same

from sparsity.allocation import owl, sensitivity
from sparsity.stream import BlockStream
from sparsity.tracking.told import run_name

pytestmark = pytest.mark.usefixtures("work")
OWL = ("allocation=owl", "allocation.outlier=2", "allocation.lam=0.2")
SENSITIVITY = ("allocation=sensitivity", "allocation.lam=0.2")


def shares(found: Run) -> set[str]:
    return {row["sparsity_asked"] for row in found.layers}


@pytest.mark.parametrize("words", [OWL, SENSITIVITY], ids=["owl", "sensitivity"])
@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
def test_the_model_gives_up_what_was_asked(words, method):
    found = run(UNMEASURED, *words, f"method={method}", "sparsity=0.55", "layer_error=false", "save=true")
    sparsity = found.result["sparsity"]
    total = math.floor(0.55 * sparsity["weights"])
    assert len(shares(found)) > 1
    assert sparsity["asked"] == pytest.approx(total / sparsity["weights"], abs=1e-12)
    narrow = min(int(row["rows"]) for row in found.layers)
    blocks = len(found.layers) if method == "sparsegpt" else 0  # which counts in each block of inputs
    assert total - narrow - blocks < sparsity["zeros"] <= total
    if method == "magnitude":
        assert sparsity["zeros"] == total
    table = found.table("allocation")
    removed = sum(float(row["share"]) * int(row["weights"]) for row in table)
    assert removed == pytest.approx(total, abs=1e-6)
    measured = {"outliers", "divergence"} & {*table[0]}
    assert len(measured) == 1
    assert all(float(row[name]) >= 0 for row in table for name in measured)
    assert "Owl(" in found.result["composition"]["allocation"] or "Sensitivity(" in str(found.result["composition"])
    assert found.result["seconds"]["allocate"] > 0
    assert "allocation:" in (found.checkpoint / "README.md").read_text()


def test_no_room_is_uniform_but_for_what_rounding_left_over():
    uniform = run(UNMEASURED, "sparsity=0.5", into="a")
    none = run(UNMEASURED, *OWL, "allocation.lam=0", into="b")
    assert none.result["mask_sha256"] == uniform.result["mask_sha256"]
    assert not (uniform.folder / "allocation.csv").exists()
    assert uniform.result["seconds"]["allocate"] < 0.1


def test_the_shares_follow_what_was_measured():
    found = run(UNMEASURED, *SENSITIVITY, "allocation.unit=role", "sparsity=0.5")
    table = sorted(found.table("allocation"), key=lambda row: float(row["divergence"]) / int(row["weights"]))
    each = [float(row["share"]) for row in table]
    assert each[0] > 0.5 > each[-1]
    spread = run(UNMEASURED, *OWL, "sparsity=0.5", into="owl").table("allocation")
    by_outliers = [float(row["share"]) for row in sorted(spread, key=lambda row: float(row["outliers"]))]
    assert by_outliers == sorted(by_outliers, reverse=True)


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
def test_one_measurement_serves_all_bounds_and_sparsities(monkeypatch, propagate):
    words = (UNMEASURED, *SENSITIVITY, "allocation.level=0.5", f"calibration.propagate={propagate}")
    first = run(*words, "sparsity=0.5", into="a")
    monkeypatch.setattr(sensitivity, "divergences", refuse)
    again = run(*words, "sparsity=0.6", "allocation.lam=0.1", into="b")
    assert [row["divergence"] for row in first.table("allocation")] == [
        row["divergence"] for row in again.table("allocation")
    ]
    assert shares(first) != shares(again)
    with pytest.raises(AssertionError, match="not to be called"):
        run(*words, "sparsity=0.5", "allocation.level=0.6", into="c")


def test_the_walk_over_the_dense_model_is_that_of_other_runs(monkeypatch):
    """Wanda's statistics with dense propagation are what OWL scores by, so a later run walks nowhere."""
    run(UNMEASURED, "method=wanda", "calibration.propagate=dense", into="a")
    monkeypatch.setattr(BlockStream, "observe", refuse)
    found = run(UNMEASURED, *OWL, "method=magnitude", into="b")
    assert len(shares(found)) > 1


@pytest.mark.parametrize("words", [OWL, SENSITIVITY], ids=["owl", "sensitivity"])
@pytest.mark.parametrize("forgets", [False, True])
def test_a_resumed_run_allots_as_it_did(monkeypatch, words, forgets):
    """Whether the measurement was kept or must be repeated."""
    words = (*MEASURED, *words, "method=sparsegpt", "save=true", *(["cache.limit_gib=0"] if forgets else []))
    whole = run(*FOUR, *words, into="whole")
    killed(monkeypatch, *words, at="layers.2.mlp.up_proj")
    if not forgets:
        monkeypatch.setattr(owl, "collect", refuse)
        monkeypatch.setattr(sensitivity, "collect", refuse)
    assert command(*SMALL, *FOUR, *words).status == 0
    [folder] = folders()
    assert Run(folder).result["resumed"] == [2]
    same(Run(folder), whole)
    assert Run(folder).table("allocation") == whole.table("allocation")


@pytest.mark.parametrize("words", [OWL, SENSITIVITY], ids=["owl", "sensitivity"])
def test_groups_of_inputs_are_refused_in_words(words):
    ended = command(*SMALL, UNMEASURED, *words, "pattern=2of4", "plan=true")
    assert ended.status == 1
    for said in (words[0].partition("=")[2].title(), "NofM(n=2, m=4)", "50.00%", "allocation=uniform"):
        assert said in ended.err


def test_a_plan_says_that_shares_are_measured_and_measures_nothing(monkeypatch):
    monkeypatch.setattr(BlockStream, "observe", refuse)
    ended = command(*SMALL, UNMEASURED, *OWL, "method=magnitude", "plan=true")
    assert ended.status == 0, ended.err
    assert "Owl(unit='block'" in ended.out
    assert "measured in the run" in ended.out


def test_nothing_to_prune_is_nothing_to_allot():
    found = run(UNMEASURED, *OWL, "method=dense")
    assert shares(found) == {"0.0"}
    assert not (found.folder / "allocation.csv").exists()


def test_the_head_keeps_the_pattern():
    words = ("model.tie_word_embeddings=false", "scope.lm_head=true")
    found = run(UNMEASURED, *OWL, *words, "sparsity=0.5")
    *layers, head = found.layers
    assert head["sparsity_asked"] == "0.5"
    assert {row["sparsity_asked"] for row in layers} != {"0.5"}


def test_an_allocation_is_part_of_the_key():
    keys = {key("allocation=uniform"), key("allocation=owl"), key("allocation=owl", "allocation.lam=0.1")}
    assert len(keys) == 3
    assert key() in keys


def test_a_sweep_over_allocations(work: Path):
    ended = command("-m", *SMALL, *MEASURED, "allocation=uniform,owl,sensitivity", "hydra.sweep.dir=grid")
    assert ended.status == 0, ended.err
    chosen = [json.loads((work / "grid" / str(i) / "result.json").read_text())["choices"] for i in range(3)]
    assert [choices["allocation"] for choices in chosen] == ["uniform", "owl", "sensitivity"]


def test_only_an_unusual_allocation_is_in_a_name():
    ended = command(*SMALL, *MEASURED, *OWL, "method=wanda", "hydra.run.dir=run")
    assert "tiny · wanda · unstructured · owl · none" in ended.out
    chosen = {"method": "wanda", "pattern": "unstructured", "allocation": "owl", "corrector": "none"}
    assert run_name(chosen, 0.6, 0, ["allocation=owl"]) == "wanda · unstructured 0.6 · owl · none · seed 0"
    chosen["allocation"] = "uniform"
    assert run_name(chosen, 0.6, 0, []) == "wanda · unstructured 0.6 · none · seed 0"


def test_one_walk_serves_the_allocation_and_the_method(monkeypatch):
    walks = []
    original = BlockStream.__init__

    def counted(self, *arguments, **named):
        walks.append(named["propagate"])
        original(self, *arguments, **named)

    monkeypatch.setattr(BlockStream, "__init__", counted)
    found = run(UNMEASURED, *OWL, "method=sparsegpt", "calibration.propagate=dense", into="a")
    assert found.result["calibration"]["block_forwards"] == 0
    assert walks == ["dense"]

"""scope.lm_head=true prunes the output head too, by magnitude, and nothing else than without it; a tied head is refused."""

from __future__ import annotations

import pytest
import torch
from checkpoints import tiny
from commands import MEASURED, SMALL, UNMEASURED, command, refuse, run

from sparsity.models import Decoder
from sparsity.stream import BlockStream

UNTIED = "model.tie_word_embeddings=false"
pytestmark = pytest.mark.usefixtures("work")


@pytest.mark.parametrize("method", ["dense", "hybrid"])
def test_the_head_is_pruned_by_magnitude_and_nothing_else_changes(method):
    options = (UNMEASURED, UNTIED, "save=true", "sparsity=0.3", f"method={method}", "corrector=none")
    without, found = run(*options, into="without"), run(*options, "scope.lm_head=true", into="with")
    before, after = without.weights, found.weights
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"lm_head.weight"}
    dense_OI, head_OI = tiny(tie_word_embeddings=False).model.lm_head.weight, after["lm_head.weight"]
    assert torch.equal(before["lm_head.weight"], dense_OI)
    removed = int(0.3 * dense_OI.numel())
    assert (head_OI == 0).sum() == removed  # exactly
    least = dense_OI.abs().flatten().sort().values[removed - 1]
    assert torch.equal(head_OI, dense_OI * (dense_OI.abs() > least))

    row = found.layers[-1]
    assert found.layers[:-1] != []
    assert [row["name"] for row in found.layers[:-1]] == [row["name"] for row in without.layers]
    assert (row["name"], row["role"], row["method"], row["block"]) == ("lm_head", "head", "magnitude", "2")
    assert (int(row["rows"]), int(row["columns"])) == dense_OI.shape
    assert float(row["sparsity_asked"]) == 0.3
    assert float(row["sparsity_found"]) == pytest.approx(removed / dense_OI.numel())

    # the recount in the model holds the head as well
    counted, less = found.result["sparsity"], without.result["sparsity"]
    assert counted["weights"] - less["weights"] == dense_OI.numel()
    assert counted["zeros"] - less["zeros"] == removed
    assert counted["layers"] - less["layers"] == 1
    layers = found.result["layers"]
    assert layers["all"] == layers["pruned"] == without.result["layers"]["all"] + 1
    assert found.result["run_key"] != without.result["run_key"]


def test_a_pattern_fits_the_head_too():
    found = run(UNMEASURED, UNTIED, "save=true", "method=magnitude", "pattern=n_of_m", "scope.lm_head=true")
    groups_GM = found.weights["lm_head.weight"].reshape(-1, 4)
    assert (groups_GM != 0).sum(1).tolist() == [1] * len(groups_GM)
    dense_GM = tiny(tie_word_embeddings=False).model.lm_head.weight.reshape(-1, 4)
    assert torch.equal(groups_GM.abs().argmax(1), dense_GM.abs().argmax(1))
    assert float(found.layers[-1]["sparsity_found"]) == 0.75


def test_the_pruned_head_is_what_is_evaluated():
    """Nothing else changes the perplexity: the method is dense."""
    perplexity = run(*MEASURED, UNTIED, "method=dense", "sparsity=0.9", "scope.lm_head=true").result["perplexity"]
    assert perplexity["pruned"] != perplexity["dense"]


@pytest.mark.parametrize("plan", ["false", "true"])
def test_a_tied_head_is_refused_by_name_before_any_forward_pass(plan, monkeypatch):
    for where, name in ((Decoder, "record"), (Decoder, "logits"), (BlockStream, "observe")):
        monkeypatch.setattr(where, name, refuse)
    ended = command(*SMALL, UNMEASURED, "scope.lm_head=true", f"plan={plan}")
    assert ended.status == 1
    assert "error: lm_head shares its weight with the token embeddings (tie_word_embeddings)" in ended.err
    assert "Leave scope.lm_head=false" in ended.err


def test_a_pattern_that_does_not_fit_the_head_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(Decoder, "record", refuse)
    options = (UNTIED, "scope.lm_head=true", "pattern=n_of_m", "pattern.m=5", "method=dense")
    ended = command(*SMALL, UNMEASURED, *options)
    assert ended.status == 1
    assert "lm_head has 64 inputs" in ended.err


def test_the_plan_shows_the_head():
    ended = command(*SMALL, UNMEASURED, UNTIED, "scope.lm_head=true", "plan=true", "sparsity=0.3")
    assert ended.status == 0, ended.err
    (line,) = [line for line in ended.out.splitlines() if line.startswith("head lm_head")]
    assert line.split() == ["head", "lm_head", "259", "x", "64", "30.00%", "none", "1"]

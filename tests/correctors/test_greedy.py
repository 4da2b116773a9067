"""`greedy` is the descent on stored activations, meets exact methods in its limits, and never makes a layer worse."""

from __future__ import annotations

import pytest
import torch
from problems import SITE, Problem, problem
from textbook_correctors import greedy, masked_least_squares
from torch.testing import assert_close

from sparsity.core import Layer, Pruned, UserError
from sparsity.correctors import Greedy
from sparsity.correctors import greedy as module
from sparsity.correctors.selection import Selection
from sparsity.linalg import layer_loss
from sparsity.methods import SparseGPT, Wanda
from sparsity.patterns import Unstructured

HALF = Unstructured(0.5)
METHODS = [Wanda("row"), SparseGPT("layer", 0.01, 8)]


def order(p: Problem, pruned, corrector) -> list[int]:
    return corrector.selection.choose(p.stats(), pruned.keep_OI).channel_S.tolist()


def loss(p: Problem, weight_OI) -> float:
    return layer_loss(p.gram_II, weight_OI - p.layer.weight_OI).item()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("panel", [1, 3, 128])
@pytest.mark.parametrize("step", [0.01, 0.3, "optimal"])
@pytest.mark.parametrize(("passes", "tolerance"), [(1, None), (1, 1e-3), (3, 2e-4)])
def test_greedy_is_the_descent_on_stored_activations(monkeypatch, seed, panel, step, passes, tolerance):
    monkeypatch.setattr(module, "PANEL", panel)
    p = problem(seed=seed, tokens=60)
    p.x_NI[:, 3] = 0
    pruned = METHODS[seed % 2].prune(p.layer, HALF, p.stats())
    corrector = Greedy("weakest", 0.7, "l2", step, tolerance is not None, tolerance or 0.0, passes)
    c = None if step == "optimal" else step
    channels = order(p, pruned, corrector)
    expected_OI, _ = greedy(pruned.weight_OI, p.layer.weight_OI, pruned.keep_OI, p.x_NI, channels, c, passes, tolerance)
    found = corrector.correct(p.layer, pruned, p.stats())
    assert_close(found.weight_OI, expected_OI, rtol=1e-9, atol=1e-9)
    changed_OI = found.weight_OI != pruned.weight_OI
    assert found.facts["applied"] == changed_OI.sum() / pruned.keep_OI[:, channels].sum()
    assert found.facts["applied_channels"] == pytest.approx(changed_OI.any(0).sum().item() / len(channels))


def test_the_early_stop_above_stops_early_and_in_every_place():
    """Otherwise the test above would pass without one."""
    worked = set()
    for seed in range(3):
        p = problem(seed=seed, tokens=60)
        p.x_NI[:, 3] = 0
        pruned = METHODS[seed % 2].prune(p.layer, HALF, p.stats())
        for step, tolerance in ((0.01, 1e-3), (0.3, 1e-3), (None, 1e-3), (0.01, 2e-4), (None, 2e-4)):
            channels = order(p, pruned, Greedy("weakest", 0.7, "l2", 0.0, False, 0.0, 1))
            _, count = greedy(pruned.weight_OI, p.layer.weight_OI, pruned.keep_OI, p.x_NI, channels, step, 3, tolerance)
            worked.add(count)
    assert len(worked) > 3
    assert min(worked) < 8


@pytest.mark.parametrize("panel", [1, 128])
def test_a_gain_is_held_against_the_loss_that_is_left_and_a_dead_channel_ends_nothing(monkeypatch, panel):
    monkeypatch.setattr(module, "PANEL", panel)
    x_NI = torch.diag(torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    p = Problem(x_NI, Layer(SITE, torch.ones(1, 4, dtype=torch.float64)))
    off_OI = torch.tensor(
        [[1.0, 3.0, 0.7, 0.1]], dtype=torch.float64
    )  # losses 0, 9, 0.49, 0.01: each most of what is left
    pruned = Pruned(p.layer.weight_OI + off_OI, torch.ones(1, 4, dtype=torch.bool))
    found = Greedy("all", 1.0, "l2", "optimal", True, 0.1, 1).correct(p.layer, pruned, p.stats())
    assert_close(found.weight_OI, torch.tensor([[2.0, 1.0, 1.0, 1.0]], dtype=torch.float64))


def test_one_optimal_step_leaves_no_slope():
    p = problem()
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    corrector = Greedy("top", 1e-9, "l2", "optimal", True, 0.0, 1)
    (j,) = order(p, pruned, corrector)
    found = corrector.correct(p.layer, pruned, p.stats())
    survives_O = pruned.keep_OI[:, j]
    slope_O = ((found.weight_OI - p.layer.weight_OI) @ p.gram_II)[:, j]
    assert slope_O[survives_O].abs().max() < 1e-10 * p.gram_II[j, j]
    assert slope_O[~survives_O].abs().max() > 1
    change_OI = found.weight_OI - pruned.weight_OI
    gain = (change_OI[:, j].square() * p.gram_II[j, j]).sum()  # p^2 / g of every row
    assert loss(p, pruned.weight_OI) - loss(p, found.weight_OI) == pytest.approx(gain.item())


def test_a_constant_step_moves_by_that_share_of_the_dense_weight_at_most():
    p = problem(inputs=32)
    pruned = SparseGPT("layer", 0.01, 8).prune(p.layer, HALF, p.stats())
    for passes in (1, 2):
        found = Greedy("all", 1.0, "l2", 0.05, False, 0.0, passes).correct(p.layer, pruned, p.stats())
        share_OI = (found.weight_OI - pruned.weight_OI).abs() / p.layer.weight_OI.abs()
        assert 0.04 * passes < share_OI.max() <= 0.05 * passes + 1e-9


def test_passes_go_on_where_the_last_one_ended():
    p = problem()
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    losses = []
    for passes in (1, 2, 4, 8):
        found = Greedy("all", 1.0, "l2", "optimal", False, 0.0, passes).correct(p.layer, pruned, p.stats())
        losses.append(loss(p, found.weight_OI))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_many_optimal_passes_are_the_masked_least_squares(method):
    p = problem(inputs=12, tokens=400)
    pruned = method.prune(p.layer, HALF, p.stats())
    found = Greedy("all", 1.0, "l2", "optimal", False, 0.0, 3000).correct(p.layer, pruned, p.stats())
    exact_OI = masked_least_squares(p.layer.weight_OI, pruned.keep_OI, p.x_NI)
    assert_close(found.weight_OI, exact_OI, rtol=1e-6, atol=1e-6)


def test_a_layer_that_is_dense_stays_so():
    p = problem()
    pruned = Wanda("row").prune(p.layer, Unstructured(0.0), p.stats())
    for step in (0.01, "optimal"):
        found = Greedy("all", 1.0, "l2", step, True, 1e-6, 2).correct(p.layer, pruned, p.stats())
        assert torch.equal(found.weight_OI, p.layer.weight_OI)
        assert found.facts["applied"] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"step": -0.1}, {"step": "exact"}, {"tolerance": -1e-6}, {"passes": 0}, {"fraction": 0.0}, {"select": "best"}],
    ids=str,
)
def test_what_is_out_of_range_is_refused(wrong):
    right = {"select": "top", "fraction": 0.1, "salience": "l2", "step": 0.01}
    right |= {"early_stop": True, "tolerance": 1e-6, "passes": 1}
    assert isinstance(Greedy(**right).selection, Selection)
    with pytest.raises(UserError, match="expected"):
        Greedy(**right | wrong)

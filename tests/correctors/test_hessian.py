"""`hessian` is the ridge regression of the residual on its channels, and neither corrector ever makes a layer worse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import GRAM, SITE, Problem, problem
from test_greedy import METHODS, order
from textbook_correctors import hessian
from torch.testing import assert_close

from sparsity.core import Layer, Pruned, UserError
from sparsity.correctors import Greedy, Hessian
from sparsity.linalg import layer_loss, line_search, never_worse
from sparsity.methods import SparseGPT, Wanda
from sparsity.patterns import Unstructured

HALF = Unstructured(0.5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("select", ["weakest", "top", "moderate", "all"])
@pytest.mark.parametrize("max_change", [None, 0.05, 1.0])
def test_hessian_is_the_ridge_regression_of_the_residual(seed, select, max_change):
    p = problem(seed=seed, tokens=60)
    pruned = METHODS[seed % 2].prune(p.layer, HALF, p.stats())
    corrector = Hessian(select, 0.4, "l2", max_change, 1e-3)
    channels = order(p, pruned, corrector)
    found = corrector.correct(p.layer, pruned, p.stats())
    expected_OI = hessian(pruned.weight_OI, p.layer.weight_OI, pruned.keep_OI, p.x_NI, channels, 1e-3, max_change)
    assert_close(found.weight_OI, expected_OI, rtol=1e-9, atol=1e-9)
    assert found.facts["damp"] == 1e-3
    if select != "all" and max_change != 1.0:  # `all` moves nothing after Wanda, and 1.0 is far
        assert (found.facts["clamped"] > 0) == (max_change is not None)


def test_survivors_of_every_row_in_the_channels_get_the_least_squares_on_them():
    """Nothing is dropped where a channel survives in all rows or in none: the solution is optimal as it stands."""
    p = problem()
    keep_OI = (torch.arange(16) % 3 != 0).expand(6, 16)
    pruned = Pruned(p.layer.weight_OI * keep_OI, keep_OI)
    corrector = Hessian("top", 0.5, "l2", None, 0.0)
    S = order(p, pruned, corrector)
    found = corrector.correct(p.layer, pruned, p.stats())
    residual_NO = p.x_NI @ (p.layer.weight_OI - pruned.weight_OI).T
    exact_SO = torch.linalg.lstsq(p.x_NI[:, S], residual_NO).solution
    assert_close(found.weight_OI[:, S], pruned.weight_OI[:, S] + exact_SO.T)
    others = [i for i in range(16) if i not in S]
    assert torch.equal(found.weight_OI[:, others], pruned.weight_OI[:, others])
    assert found.facts["line_search"] == pytest.approx(1)


def test_all_channels_change_nothing_after_a_method_that_only_scores():
    p = problem()
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    assert pruned.keep_OI.any(0).all()
    found = Hessian("all", 1.0, "l2", None, 0.0).correct(p.layer, pruned, p.stats())
    assert_close(found.weight_OI, pruned.weight_OI, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_all_channels_walk_back_along_what_sparsegpt_compensated(seed):
    """D = W0 - W on the survivors, scaled by the line search: fully undone only where that lowers the loss."""
    p = problem(outputs=24, seed=seed)
    pruned = SparseGPT("layer", 0.01, 8).prune(p.layer, Unstructured(0.3), p.stats())
    assert pruned.keep_OI.any(0).all()
    found = Hessian("all", 1.0, "l2", None, 0.0).correct(p.layer, pruned, p.stats())
    back_OI = (p.layer.weight_OI - pruned.weight_OI) * pruned.keep_OI
    slope_O = (back_OI * ((pruned.weight_OI - p.layer.weight_OI) @ p.gram_II)).sum(1)
    t_O = line_search(slope_O, ((back_OI @ p.gram_II) * back_OI).sum(1))
    assert_close(found.weight_OI, pruned.weight_OI + t_O[:, None] * back_OI, rtol=1e-6, atol=1e-6)


def test_a_failed_cholesky_is_damped_and_reported_and_a_dead_channel_stands_alone():
    p = problem()
    p.x_NI[:, 1] = p.x_NI[:, 0]
    p.x_NI[:, 4] = 0
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    gram_II = p.stats()[GRAM].gram_II
    gram_II[0, 1] += 1e-9 * gram_II[0, 0]  # as rounding might leave it: not even semidefinite
    gram_II[1, 0] += 1e-9 * gram_II[0, 0]
    stats = p.stats()
    stats.folded[GRAM].state = stats.folded[GRAM].state._replace(gram_II=gram_II)
    found = Hessian("all", 1.0, "l2", None, 1e-14).correct(p.layer, pruned, stats)
    assert 1e-11 < found.facts["damp"] < 1e-6
    assert found.weight_OI.isfinite().all()
    assert torch.equal(found.weight_OI[:, 4], pruned.weight_OI[:, 4])


def test_a_line_search_ends_at_the_least_loss_between_nothing_and_all():
    slope_O, curvature_O = torch.tensor([-1.0, -4.0, 1.0, -1.0, -1.0]), torch.tensor([2.0, 2.0, 2.0, 0.0, -1.0])
    assert line_search(slope_O, curvature_O).tolist() == [0.5, 1.0, 0.0, 0.0, 0.0]


def test_never_worse_takes_the_better_row():
    p = problem()
    dense_OI = p.layer.weight_OI
    given_OI = dense_OI + 1
    corrected_OI = dense_OI + torch.tensor([0.5, 2.0, 1.0, -0.5, -2.0, 0.0])[:, None]
    found_OI = never_worse(p.gram_II, dense_OI, given_OI, corrected_OI)
    better = torch.tensor([True, False, False, True, False, True])
    assert torch.equal(found_OI, torch.where(better[:, None], corrected_OI, given_OI))


# --- whatever the layer -----------------------------------------------------------------------------------------------


@st.composite
def layers(draw):
    """Few tokens (a Gram of low rank), dead channels, ties, rows and columns without survivors; what a method left of them."""
    outputs, inputs = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    p = problem(outputs, inputs, draw(st.sampled_from([1, 3, 8, 40])), draw(st.integers(0, 10_000)), torch.float64)
    x_NI, weight_OI = p.x_NI, p.layer.weight_OI
    if draw(st.booleans()):
        weight_OI = (2 * weight_OI).round() / 2
        x_NI = x_NI.round()
    x_NI[:, draw(st.lists(st.integers(0, inputs - 1), max_size=3))] = 0
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    p = Problem(x_NI.to(dtype), Layer(SITE, weight_OI.to(dtype)))
    method = draw(st.sampled_from(METHODS))
    pruned = method.prune(p.layer, Unstructured(draw(st.sampled_from([0.0, 0.3, 0.5, 0.8]))), p.stats())
    keep_OI = pruned.keep_OI.clone()
    keep_OI[draw(st.lists(st.integers(0, outputs - 1), max_size=2))] = False
    keep_OI[:, draw(st.lists(st.integers(0, inputs - 1), max_size=2))] = False
    return p, Pruned(pruned.weight_OI * keep_OI, keep_OI)


selects = st.sampled_from(["weakest", "top", "moderate", "all"])
fractions = st.sampled_from([0.05, 0.4, 1.0])
greedies = st.builds(
    Greedy, selects, fractions, st.just("l2"), st.sampled_from([0.0, 0.01, 0.5, "optimal"]), st.booleans(),
    st.sampled_from([0.0, 1e-6, 0.01]), st.integers(1, 3),
)  # fmt: skip
hessians = st.builds(
    Hessian, selects, fractions, st.just("l2"), st.sampled_from([None, 0.0, 0.05]), st.sampled_from([0.0, 1e-5, 0.1])
)


def bound(corrector) -> float | None:
    """The bound of a weight's change, as a fraction of its dense value."""
    if isinstance(corrector, Hessian):
        return corrector.max_change
    return None if corrector.step == "optimal" else corrector.step * corrector.passes


@settings(max_examples=250, deadline=None, derandomize=True)
@given(layers(), greedies | hessians)
def test_no_layer_becomes_worse(drawn, corrector):
    p, pruned = drawn
    stats = p.stats()
    found = corrector.correct(p.layer, pruned, stats)
    given_OI, dense_OI, dtype = pruned.weight_OI, p.layer.weight_OI, p.layer.weight_OI.dtype
    assert (found.weight_OI.dtype, found.weight_OI.shape) == (dtype, dense_OI.shape)
    assert found.weight_OI.isfinite().all()
    assert found.weight_OI[~pruned.keep_OI].eq(0).all()
    gram_II = stats[GRAM].gram_II.double()
    before_O, after_O, scale_O = (
        torch.stack([layer_loss(gram_II, row_I[None]) for row_I in (weight_OI.double() - dense_OI.double())])
        for weight_OI in (given_OI, found.weight_OI, torch.zeros_like(given_OI))
    )
    rounding = 4 * torch.finfo(stats[GRAM].gram_II.dtype).eps  # of the Gram's dtype: bfloat16 is computed in float32
    assert (after_O <= (1 + 1e-6) * before_O + rounding * scale_O).all()
    if (share := bound(corrector)) is not None:
        change_OI = (found.weight_OI.double() - given_OI.double()).abs()
        step = torch.finfo(dtype).eps * given_OI.double().abs().maximum(found.weight_OI.double().abs())
        assert (change_OI <= share * (1 + 1e-6) * dense_OI.double().abs() + step).all()
    facts = found.facts
    assert all(isinstance(fact, float) for fact in facts.values())
    assert facts["candidates"] == pruned.keep_OI.any(0).sum()
    for name in {"applied", "applied_channels", "clamped", "line_search"} & facts.keys():
        assert 0 <= facts[name] <= 1, name


@pytest.mark.parametrize(
    "corrector", [Greedy("all", 1.0, "l2", 0.3, False, 0.0, 1), Hessian("all", 1.0, "l2", 0.3, 1e-5)]
)
def test_rows_that_rounding_would_spoil_come_back_bit_for_bit(corrector):
    p = problem(outputs=64, dtype=torch.bfloat16)
    gram_II = p.stats()[GRAM].gram_II
    pruned = SparseGPT("layer", 0.01, 8).prune(p.layer, Unstructured(0.2), p.stats())
    found = corrector.correct(p.layer, pruned, p.stats())
    losses = [
        torch.stack([layer_loss(gram_II.double(), row_I[None]) for row_I in w.double() - p.layer.weight_OI.double()])
        for w in (pruned.weight_OI, found.weight_OI)
    ]
    same_O = (found.weight_OI == pruned.weight_OI).all(1)
    assert (losses[1] < losses[0])[~same_O].all()
    assert 0 < same_O.sum() < 64


@pytest.mark.parametrize(
    "wrong", [{"max_change": -0.1}, {"damp": -1e-5}, {"fraction": 2.0}, {"salience": "l1"}], ids=str
)
def test_what_is_out_of_range_is_refused(wrong):
    right = {"select": "top", "fraction": 0.1, "salience": "l2", "max_change": 0.05, "damp": 1e-5}
    assert Hessian(**right).selection.fraction == 0.1
    with pytest.raises(UserError, match="expected"):
        Hessian(**right | wrong)

"""The corrector `optimal`: equal to the exact solution of every row, and never worse than what it was given."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from problems import GRAM, Problem, problem, white
from textbook import best_survivors
from torch.testing import assert_close

from sparsity.core import Layer, Pruned, UserError
from sparsity.correctors import Optimal
from sparsity.linalg import damped, layer_loss
from sparsity.methods import SparseGPT, Wanda
from sparsity.patterns import NofM, Unstructured

HALF = Unstructured(0.5)
METHODS = [Wanda("row"), SparseGPT("layer", 0.01, 16)]
REST = {"select": "all", "fraction": 0.05, "salience": "l2"}


def optimal(steps=200, damp=0.01, max_change=None, precision="float64", **rest) -> Optimal:
    return Optimal(steps, damp, max_change, precision, **REST | rest)


def loss_of_rows(gram_II, layer, weight_OI):
    change_OI = weight_OI.double() - layer.weight_OI.double()
    return ((change_OI @ gram_II.double()) * change_OI).sum(1)


# --- the exact solution -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_run_to_convergence_it_is_the_exact_solution(seed, method):
    p = problem(8, 40, 100, seed)
    pruned = method.prune(p.layer, HALF, p.stats())
    corrected = optimal().correct(p.layer, pruned, p.stats())
    exact_OI = best_survivors(p.layer.weight_OI, pruned.keep_OI, damped(p.gram_II, 0.01))
    assert_close(corrected.weight_OI, exact_OI, rtol=1e-7, atol=1e-8)
    assert corrected.facts["residual"] <= 1e-8
    assert corrected.facts["line_search"] == pytest.approx(1)
    assert corrected.facts["applied"] == 1


def test_without_damping_it_is_least_squares():
    p = problem()
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    corrected = optimal(damp=0.0).correct(p.layer, pruned, p.stats())
    for o, keep_I in enumerate(pruned.keep_OI):
        solved_S = torch.linalg.lstsq(p.x_NI[:, keep_I], p.x_NI @ p.layer.weight_OI[o]).solution
        assert_close(corrected.weight_OI[o, keep_I], solved_S, rtol=1e-8, atol=1e-8)


def test_it_does_not_depend_on_the_scale_of_the_inputs():
    """The damping is relative and the preconditioner is the diagonal; without damping each input has a scale of its own."""
    p = problem(8, 40, 100)
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    for damp, c_I in ((0.01, torch.tensor(7.0)), (0.0, torch.linspace(0.01, 100, 40, dtype=torch.float64))):
        q = Problem(p.x_NI * c_I, Layer(p.layer.site, p.layer.weight_OI / c_I))
        scaled = Pruned(pruned.weight_OI / c_I, pruned.keep_OI)
        a, b = (optimal(5, damp).correct(r.layer, m, r.stats()).weight_OI for r, m in ((p, pruned), (q, scaled)))
        assert_close(b * c_I, a, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("max_change", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_with_a_box_it_satisfies_the_conditions_of_the_minimum(method, max_change):
    p = problem(8, 40, 100)
    pruned = method.prune(p.layer, HALF, p.stats())
    corrected = optimal(400, max_change=max_change).correct(p.layer, pruned, p.stats())
    # the line search may stop short of the damped minimum, which is what the conditions are of
    assert corrected.facts["line_search"] == pytest.approx(1)
    downhill_OI = -(corrected.weight_OI - p.layer.weight_OI) @ damped(p.gram_II, 0.01)
    change_OI, limit_OI = corrected.weight_OI - pruned.weight_OI, max_change * p.layer.weight_OI.abs()
    small = 1e-8 * (p.layer.weight_OI @ p.gram_II).norm(dim=1, keepdim=True)
    low_OI, high_OI = change_OI <= -limit_OI * (1 - 1e-9), change_OI >= limit_OI * (1 - 1e-9)
    keep_OI = pruned.keep_OI
    assert (change_OI.abs() <= limit_OI * (1 + 1e-12)).all()
    assert (downhill_OI.abs() <= small)[keep_OI & ~low_OI & ~high_OI].all()
    assert (downhill_OI <= small)[keep_OI & low_OI].all()
    assert (downhill_OI >= -small)[keep_OI & high_OI].all()
    assert corrected.facts["residual"] <= 1e-8
    at_bound = (keep_OI & (low_OI | high_OI)).sum() / keep_OI.sum()
    assert corrected.facts["clamped"] == pytest.approx(at_bound.item())
    assert 0 < at_bound < 1


def test_a_wide_box_is_no_box():
    p = problem(8, 40, 100)
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    a, b = (optimal(100, max_change=width).correct(p.layer, pruned, p.stats()) for width in (None, 1e9))
    assert_close(a.weight_OI, b.weight_OI, rtol=1e-9, atol=1e-9)
    assert a.facts["clamped"] == b.facts["clamped"] == 0


# --- limits -----------------------------------------------------------------------------------------------------------


def test_under_white_inputs_the_survivors_stay_the_dense_ones():
    p = white(problem())
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    corrected = optimal().correct(p.layer, pruned, p.stats())
    assert_close(corrected.weight_OI, p.layer.weight_OI * pruned.keep_OI, rtol=1e-12, atol=1e-12)


def test_where_nothing_is_removed_the_dense_layer_comes_back():
    p = problem()
    moved_OI = p.layer.weight_OI + 0.1 * p.layer.weight_OI.flip(0)
    corrected = optimal().correct(p.layer, Pruned(moved_OI, torch.ones_like(moved_OI, dtype=torch.bool)), p.stats())
    assert_close(corrected.weight_OI, p.layer.weight_OI, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_no_change_allowed_is_no_change(dtype):
    p = problem(dtype=dtype)
    pruned = SparseGPT("layer", 0.01, 16).prune(p.layer, HALF, p.stats())
    corrected = optimal(10, max_change=0.0, precision="float32").correct(p.layer, pruned, p.stats())
    assert torch.equal(corrected.weight_OI, pruned.weight_OI)
    assert corrected.facts["applied"] == 0
    assert corrected.facts["clamped"] == 1


def test_only_the_selected_channels_change():
    p = problem()
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    corrected = optimal(select="weakest", fraction=0.25).correct(p.layer, pruned, p.stats())
    chosen = p.gram_II.diagonal().argsort()[:4]
    free_OI = torch.zeros_like(pruned.keep_OI)
    free_OI[:, chosen] = pruned.keep_OI[:, chosen]
    assert torch.equal(corrected.weight_OI[~free_OI], pruned.weight_OI[~free_OI])
    downhill_OI = (corrected.weight_OI - p.layer.weight_OI) @ damped(p.gram_II, 0.01)
    assert downhill_OI[free_OI].abs().max() <= 1e-8 * p.gram_II.norm()
    assert corrected.facts["selected"] == 4


# --- promises, whatever the problem -----------------------------------------------------------------------------------


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    tokens = draw(st.sampled_from([3, 10, 200]))  # of 16 inputs, so that the Gram may be singular
    p = problem(5, 16, tokens, draw(st.integers(0, 1000)))
    if draw(st.booleans()):
        p.x_NI[:, [2, 7]] = 0
    if draw(st.booleans()):
        p.x_NI[:, 4] = p.x_NI[:, 3]  # ties in the inputs, and of equal weights in the scores
        p.layer.weight_OI[:, 4] = p.layer.weight_OI[:, 3]
    p = Problem(p.x_NI.to(dtype), Layer(p.layer.site, p.layer.weight_OI.to(dtype)))
    method, pattern = draw(st.sampled_from(METHODS)), draw(st.sampled_from([HALF, Unstructured(0.9), NofM(2, 4)]))
    pruned = method.prune(p.layer, pattern, p.stats())
    if draw(st.booleans()):
        pruned.keep_OI[1], pruned.weight_OI[1] = False, 0
    corrector = optimal(
        draw(st.sampled_from([1, 10, 60])),
        draw(st.sampled_from([0.0, 1e-6, 0.01, 10.0])),
        draw(st.sampled_from([None, None, 0.05, 1.0])),
        draw(st.sampled_from(["float32", "float64"])),
        select=draw(st.sampled_from(["all", "weakest"])),
        fraction=0.5,
    )
    return p, pruned, corrector


@given(cases())
@settings(max_examples=150, deadline=None)
def test_support_loss_and_box(case):
    p, pruned, corrector = case
    stats = p.stats()
    corrected = corrector.correct(p.layer, pruned, stats)
    weight_OI, eps = corrected.weight_OI, torch.finfo(corrected.weight_OI.dtype).eps
    assert (weight_OI.dtype, weight_OI.shape) == (pruned.weight_OI.dtype, pruned.weight_OI.shape)
    assert weight_OI.isfinite().all()
    assert weight_OI[~pruned.keep_OI].eq(0).all()
    gram_II = stats[GRAM].gram_II
    before_O, after_O = (loss_of_rows(gram_II, p.layer, w) for w in (pruned.weight_OI, weight_OI))
    whole_O = loss_of_rows(gram_II, p.layer, torch.zeros_like(weight_OI))
    rounding = 1e-6 if gram_II.dtype == torch.float32 else 1e-14  # of the sums behind a loss far smaller than they
    assert (after_O <= before_O * (1 + 1e-6) + rounding * eps * whole_O).all()
    if corrector.max_change is not None:
        bound_OI = corrector.max_change * p.layer.weight_OI.double().abs()
        slack_OI = eps * (pruned.weight_OI.double().abs() + bound_OI)
        assert ((weight_OI.double() - pruned.weight_OI.double()).abs() <= bound_OI + slack_OI).all()
    assert all(isinstance(fact, float) and fact == fact for fact in corrected.facts.values())


def test_the_undamped_loss_falls_where_the_damped_minimum_would_raise_it():
    """From the undamped optimum the damped one is a step up: the line search does not take it."""
    p = problem(8, 40, 100)
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    best = optimal(damp=0.0).correct(p.layer, pruned, p.stats())
    again = optimal(damp=1.0).correct(p.layer, Pruned(best.weight_OI, pruned.keep_OI), p.stats())
    assert layer_loss(p.gram_II, again.weight_OI - p.layer.weight_OI) <= (1 + 1e-12) * layer_loss(
        p.gram_II, best.weight_OI - p.layer.weight_OI
    )
    assert again.facts["line_search"] < 1e-6


def test_a_row_that_rounding_would_worsen_keeps_the_given_weights():
    p = problem(32, 16, 200, dtype=torch.bfloat16)
    pruned = Wanda("row").prune(p.layer, HALF, p.stats())
    corrector = optimal(precision="float32")
    once = corrector.correct(p.layer, pruned, p.stats())
    twice = corrector.correct(p.layer, Pruned(once.weight_OI, pruned.keep_OI), p.stats())
    a_O, b_O = (loss_of_rows(p.stats()[GRAM].gram_II, p.layer, c.weight_OI) for c in (once, twice))
    same_O = (once.weight_OI == twice.weight_OI).all(1)
    assert same_O.any()  # a second time there is next to nothing to gain
    assert (b_O < a_O)[~same_O].all()


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"damp": -1.0}, {"max_change": -0.1}, {"precision": "float16"}, {"select": "some"}]
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}=.*expected"):
        optimal(**wrong)

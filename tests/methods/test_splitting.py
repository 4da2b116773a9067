"""ADMM and ALPS: their steps as the papers state them, where they end, and what they must leave whatever the problem."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import GRAM, Problem, problem, white
from textbook import best_survivors
from textbook_splitting import admm, alps
from torch.testing import assert_close

from sparsity.core import Layer, UserError
from sparsity.correctors import Optimal
from sparsity.linalg import layer_loss
from sparsity.methods import ADMM, ALPS, Magnitude, SparseGPT, Wanda
from sparsity.methods.splitting import advance, resolvent, units
from sparsity.patterns import NofM, Unstructured

HALF = Unstructured(0.5)
PATTERNS = [HALF, Unstructured(0.75), NofM(2, 4), NofM(1, 4), NofM(4, 8)]
SEEDS = range(3)
F64 = torch.float64


def loss(p: Problem, weight_OI) -> float:
    return layer_loss(p.gram_II, weight_OI - p.layer.weight_OI).item()


def ridged(p: Problem, damp: float) -> torch.Tensor:
    """G with that fraction of each input's squared norm added to its diagonal."""
    return p.gram_II + damp * p.gram_II.diagonal().diag()


def kept(pattern, scope):
    """The textbooks' view of a pattern: a mask of the largest absolute values."""
    return lambda v_OI, share: pattern.partly(share).keep(v_OI.abs(), scope)


# --- the papers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(("scope", "metric"), [("row", "norm"), ("layer", "norm"), ("layer", "surgeon")])
def test_admm_is_the_textbook(scope, metric, pattern, seed):
    p = problem(seed=seed)
    for iterations, gradual, held in ((20, 15, 5), (4, 1, 3), (5, 5, 0), (20, 8, 5)):
        pruned = ADMM(scope, iterations, gradual, held, metric, 0.1, 1.0).prune(p.layer, pattern, p.stats())
        weight_OI, keep_OI = admm(
            p.layer.weight_OI, p.x_NI, kept(pattern, scope), (iterations, gradual, held), metric, 0.1, 1.0
        )
        assert torch.equal(pruned.keep_OI, keep_OI)
        assert_close(pruned.weight_OI, weight_OI, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize(("scope", "metric"), [("row", "norm"), ("layer", "norm"), ("layer", "surgeon")])
def test_alps_is_the_textbook(scope, metric, pattern, seed):
    p = problem(40, 64, 100, seed=seed)  # a few weights of so many are less than k / 200
    pruned = ALPS(scope, 300, 3, metric, 0.01, 0.1).prune(p.layer, pattern, p.stats())
    weight_OI, keep_OI, rhos = alps(p.layer.weight_OI, p.x_NI, kept(pattern, scope), 300, metric, 0.01, 0.1)
    assert torch.equal(pruned.keep_OI, keep_OI)
    assert_close(pruned.weight_OI, weight_OI, rtol=1e-8, atol=1e-8)
    assert pruned.facts["rho"] == pytest.approx(rhos[-1])
    assert pruned.facts["iterations"] == 3 * len(rhos)
    assert pruned.facts["changed"] == 0


# --- where they end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_with_its_mask_held_admm_ends_at_the_best_survivors(pattern):
    p = problem(8, 40, 100)
    pruned = ADMM("row", 3000, 1, 2999, "norm", 0.01, 1.0).prune(p.layer, pattern, p.stats())
    assert torch.equal(pruned.keep_OI, Wanda("row").prune(p.layer, pattern, p.stats()).keep_OI)
    assert_close(
        pruned.weight_OI, best_survivors(p.layer.weight_OI, pruned.keep_OI, ridged(p, 0.01)), rtol=1e-7, atol=1e-7
    )
    assert pruned.facts["gap"] < 1e-8
    assert pruned.facts["settling"] == 0


def test_the_longer_the_mask_is_held_the_smaller_the_loss():
    p = problem(8, 40, 100)
    losses = [
        loss(p, ADMM("row", n, 1, n - 1, "norm", 0.0, 1.0).prune(p.layer, HALF, p.stats()).weight_OI)
        for n in (1, 10, 100, 1000)
    ]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_alps_ends_at_the_best_survivors_of_a_mask_that_stands_still(seed, pattern):
    """A hundred steps to each rho, so that the weights settle too; the hardest directions of all are not quite there."""
    p = problem(8, 40, 100, seed=seed)
    pruned = ALPS("layer", 4000, 100, "norm", 0.01, 0.1).prune(p.layer, pattern, p.stats())
    assert pruned.facts["changed"] == 0
    best_OI = best_survivors(p.layer.weight_OI, pruned.keep_OI, ridged(p, 0.01))
    assert loss(p, pruned.weight_OI) <= 1.01 * loss(p, best_OI)


@pytest.mark.parametrize("metric", ["norm", "surgeon"])
def test_the_best_survivors_of_a_mask_are_a_fixed_point(metric):
    """With U = -(Z - W0) B / rho, which is zero on the mask, a step changes nothing."""
    p = problem(8, 40, 100)
    rho, keep_OI = 0.7, Wanda("row").prune(p.layer, HALF, p.stats()).keep_OI
    matrix_II, ridge_I, scale_I, damp = p.stats().derived(GRAM, units, metric, 0.01)
    z_OI = best_survivors(p.layer.weight_OI, keep_OI, ridged(p, 0.01)) * scale_I
    dense_OI = p.layer.weight_OI * scale_I
    u_OI = -(z_OI - dense_OI) @ (matrix_II + damp * ridge_I.diag()) / rho
    assert u_OI[keep_OI].abs().max() < 1e-8 * u_OI.abs().max()
    v_OI = z_OI + u_OI
    weight_OI = advance(v_OI, dense_OI, (~keep_OI).to(F64), resolvent(matrix_II, ridge_I, damp, rho).matrix_II)
    assert_close(weight_OI, z_OI, rtol=1e-8, atol=1e-8)
    assert_close(v_OI, z_OI + u_OI, rtol=1e-8, atol=1e-8)


def test_the_first_size_of_a_weight_is_wandas_score_or_the_surgeons():
    p = problem(8, 40, 100)
    inverse_I = torch.linalg.inv(ridged(p, 0.01)).diagonal()
    for metric, cost_I in (("norm", p.gram_II.diagonal()), ("surgeon", 1 / inverse_I)):
        matrix_II, ridge_I, scale_I, _ = p.stats().derived(GRAM, units, metric, 0.01)
        assert_close(scale_I.square(), cost_I)
        assert_close((matrix_II + 0.01 * ridge_I.diag()) * scale_I * scale_I[:, None], ridged(p, 0.01))


# --- limits in which methods meet -------------------------------------------------------------------------------------

METHODS = [
    ADMM("row", 20, 15, 5, "norm", 0.01, 1.0),
    ADMM("row", 20, 15, 5, "surgeon", 0.01, 2.0),
    ALPS("row", 300, 3, "norm", 0.01, 0.1),
    ALPS("row", 300, 3, "surgeon", 0.01, 0.1),
]


@pytest.mark.parametrize(
    "method",
    [*METHODS[:2], ALPS("row", 300, 3, "norm", 0.01, 1.01), ALPS("row", 300, 3, "surgeon", 0.01, 1.0)],
    ids=str,
)
def test_under_white_inputs_it_is_magnitude(method):
    """From rho = 1 + damp on: a removed weight's V is W0 (1 + damp) / rho, and only what is larger than it comes back."""
    p = white(problem())
    found, expected = (m.prune(p.layer, HALF, p.stats()) for m in (method, Magnitude("row")))
    assert torch.equal(found.keep_OI, expected.keep_OI)
    assert_close(found.weight_OI, expected.weight_OI, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_where_nothing_is_to_go_the_dense_layer_stays(method):
    p = problem()
    pruned = method.prune(p.layer, Unstructured(0.0), p.stats())
    assert pruned.keep_OI.all()
    assert_close(pruned.weight_OI, p.layer.weight_OI, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_each_input_has_a_scale_of_its_own(method):
    p = problem(8, 40, 100)
    c_I = torch.linspace(0.01, 100, 40, dtype=F64)
    q = Problem(p.x_NI * c_I, Layer(p.layer.site, p.layer.weight_OI / c_I))
    a, b = (method.prune(r.layer, HALF, r.stats()) for r in (p, q))
    assert torch.equal(a.keep_OI, b.keep_OI)
    assert_close(b.weight_OI * c_I, a.weight_OI, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scope", ["row", "layer"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_panels_change_nothing(method, scope, monkeypatch):
    """Rows are problems of their own, but where their weights are compared."""
    p, method = problem(8, 40, 100), dataclasses.replace(method, scope=scope)
    whole = method.prune(p.layer, HALF, p.stats())
    monkeypatch.setattr("sparsity.quadratic.PANEL", 3 * 40)
    panels = method.prune(p.layer, HALF, p.stats())
    assert torch.equal(whole.keep_OI, panels.keep_OI)
    assert_close(whole.weight_OI, panels.weight_OI)
    assert whole.facts == pytest.approx(panels.facts)


# --- promises, whatever the problem -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_after_the_same_refit_alps_is_below_admm_and_sparsegpt_and_admm_below_wanda(pattern):
    """In the sum over ten problems; and before it, each is below Wanda's mask untouched, on every one."""
    methods = [METHODS[2], METHODS[0], SparseGPT("row", 0.01, 128), Wanda("row")]
    refit = Optimal(100, 0.01, None, "float64", "all", 0.05, "l2")
    refitted = torch.zeros(len(methods))
    for seed in range(10):
        p = problem(16, 64, 150, seed=seed)
        before = []
        for i, method in enumerate(methods):
            pruned = method.prune(p.layer, pattern, p.stats())
            before.append(loss(p, pruned.weight_OI))
            refitted[i] += loss(p, refit.correct(p.layer, pruned, p.stats()).weight_OI)
        assert max(before[:2]) < before[3]
    alps_loss, admm_loss, sparsegpt_loss, wanda_loss = refitted.tolist()
    assert alps_loss < min(admm_loss, sparsegpt_loss)
    assert admm_loss < wanda_loss


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
    p = problem(5, 16, draw(st.sampled_from([3, 10, 200])), draw(st.integers(0, 1000)))  # the Gram may be singular
    dead = draw(st.sampled_from([[], [2, 7], [0, 1, 2, 3, 4, 5, 6, 7], list(range(16))]))
    p.x_NI[:, dead] = 0
    p = Problem(p.x_NI.to(dtype), Layer(p.layer.site, p.layer.weight_OI.to(dtype)))
    scope, metric = draw(st.sampled_from(["row", "layer"])), draw(st.sampled_from(["norm", "surgeon"]))
    damp, rho = draw(st.sampled_from([0.0, 1e-6, 0.01, 1.0])), draw(st.sampled_from([1e-3, 0.1, 1.0, 30.0]))
    steps = draw(st.sampled_from([1, 4, 20]))
    method = draw(
        st.sampled_from(
            [
                ADMM(scope, steps, (steps + 2) // 3, steps // 4, metric, damp, rho),
                ALPS(scope, steps, 3, metric, damp, rho),
            ]
        )
    )
    return p, method, draw(st.sampled_from([HALF, Unstructured(0.9), NofM(2, 4), NofM(1, 8)])), dead


@given(cases())
@settings(max_examples=150, deadline=None)
def test_counts_are_exact_and_what_is_removed_is_zero(case):
    p, method, pattern, dead = case
    pruned = method.prune(p.layer, pattern, p.stats())
    assert (pruned.weight_OI.dtype, pruned.weight_OI.shape) == (p.layer.weight_OI.dtype, p.layer.weight_OI.shape)
    assert pruned.weight_OI.isfinite().all()
    assert pruned.weight_OI[~pruned.keep_OI].eq(0).all()
    if pattern.group:
        assert pruned.keep_OI.view(-1, pattern.group).sum(1).eq(pattern.n).all()
    elif method.scope == "row":
        assert pruned.keep_OI.sum(1).eq(16 - int(16 * pattern.sparsity)).all()
    else:
        assert pruned.keep_OI.sum() == 80 - int(80 * pattern.sparsity)
    assert pruned.facts["dead_inputs"] == len(dead)
    assert all(isinstance(fact, float) and fact == fact for fact in pruned.facts.values())


def test_weights_of_dead_inputs_go_first_and_stay_dense_where_they_must_be_kept():
    p = problem()
    p.x_NI[:, :4] = 0
    for method in METHODS:
        assert not method.prune(p.layer, HALF, p.stats()).keep_OI[:, :4].any()
        pruned = method.prune(p.layer, NofM(2, 4), p.stats())
        kept_OI = pruned.keep_OI.clone()
        kept_OI[:, 4:] = False
        assert kept_OI.sum() == 2 * 6


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": "wanda"},
        {"damp": -1.0},
        {"rho": 0.0},
        {"iterations": 0},
        {"gradual": 0},
        {"gradual": 21},
        {"every": 0},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    right = {"scope": "row", "iterations": 20, "metric": "norm", "damp": 0.01, "rho": 1.0}
    method, own = (ADMM, {"gradual": 15, "held": 5}) if "every" not in wrong else (ALPS, {"every": 3})
    if "iterations" in wrong:
        method, own = ALPS, {"every": 3}
    with pytest.raises(UserError, match=f"{next(iter(wrong))}=.*expected"):
        method(**right | own | wrong)

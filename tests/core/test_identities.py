"""Facts of the mathematics that hold for all numbers: identities, limits in which methods agree, and the papers' algorithms."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from problems import GRAM, NORM, SITE, Problem, fold, problem, white
from textbook import sparsegpt, wanda, wanda_n_of_m
from torch.testing import assert_close

from sparsity.core import Layer, Stats
from sparsity.linalg import (
    APART,
    WHOLE,
    all_finite,
    damped,
    escalate,
    inverse_factor,
    kth_smallest,
    layer_loss,
    nonzeros,
    obs_sweep,
    relative_error,
    upper_inverse,
)
from sparsity.methods import Dense, Magnitude, SparseGPT, Wanda
from sparsity.patterns import NofM, Unstructured
from sparsity.statistics import Activity, Gram, Moments, SquaredNorm

HALF = Unstructured(0.5)
SEEDS = range(5)


# --- the papers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("sparsity", "removed"), [(0.5, 8), (0.3, 4), (0.7, 11)])
def test_wanda_is_the_textbook(seed, sparsity, removed):
    p = problem(seed=seed)
    pruned = Wanda("row").prune(p.layer, Unstructured(sparsity), p.stats())
    keep_OI = wanda(p.layer.weight_OI, p.x_NI, removed)
    assert torch.equal(pruned.keep_OI, keep_OI)
    assert torch.equal(pruned.weight_OI, p.layer.weight_OI * keep_OI)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (2, 8)])
def test_wanda_n_of_m_is_the_textbook(n, m):
    p = problem()
    pruned = Wanda("row").prune(p.layer, NofM(n, m), p.stats())
    assert torch.equal(pruned.keep_OI, wanda_n_of_m(p.layer.weight_OI, p.x_NI, n, m))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [4, 6, 16, 128])
@pytest.mark.parametrize("dead", [(), (0, 9)])
def test_sparsegpt_is_the_textbook(seed, width, dead):
    p = problem(seed=seed)
    p.x_NI[:, list(dead)] = 0
    pruned = SparseGPT("layer", damp=0.01, width=width).prune(p.layer, HALF, p.stats())
    weight_OI, keep_OI = sparsegpt(p.layer.weight_OI, p.x_NI, 0.5, 0.01, width)
    assert torch.equal(pruned.keep_OI, keep_OI)
    assert_close(pruned.weight_OI, weight_OI, rtol=1e-9, atol=1e-9)
    assert pruned.facts == {"damp": 0.01, "dead_inputs": len(dead)}


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (2, 8)])
@pytest.mark.parametrize("width", [8, 11, 128])
def test_sparsegpt_n_of_m_is_the_textbook(n, m, width):
    p = problem()
    pruned = SparseGPT("layer", damp=0.01, width=width).prune(p.layer, NofM(n, m), p.stats())
    weight_OI, keep_OI = sparsegpt(p.layer.weight_OI, p.x_NI, 0.0, 0.01, width - width % m, (n, m))
    assert torch.equal(pruned.keep_OI, keep_OI)
    assert_close(pruned.weight_OI, weight_OI, rtol=1e-9, atol=1e-9)


# --- limits in which methods meet -------------------------------------------------------------------------------------


def test_wanda_is_magnitude_when_inputs_are_white():
    p = white(problem())
    a, b = (m.prune(p.layer, HALF, p.stats()) for m in (Wanda("row"), Magnitude("row")))
    assert torch.equal(a.keep_OI, b.keep_OI)


def test_sparsegpt_is_wanda_when_inputs_are_uncorrelated():
    p = white(problem(inputs=16))
    scaled = Problem(p.x_NI * torch.linspace(0.5, 2, 16, dtype=torch.float64), p.layer)
    a = SparseGPT("row", damp=0.0, width=16).prune(p.layer, HALF, scaled.stats())
    b = Wanda("row").prune(p.layer, HALF, scaled.stats())
    assert torch.equal(a.keep_OI, b.keep_OI)
    assert_close(a.weight_OI, b.weight_OI)


def test_rescaling_weights_against_inputs_changes_magnitude_but_not_wanda():
    p = problem()
    c_I = torch.linspace(0.3, 3, 16, dtype=torch.float64)
    q = Problem(p.x_NI * c_I, Layer(SITE, p.layer.weight_OI / c_I))
    for method, same in ((Wanda("row"), True), (Magnitude("row"), False)):
        a, b = (method.prune(r.layer, HALF, r.stats()).keep_OI for r in (p, q))
        assert torch.equal(a, b) is same


def test_row_and_layer_scope_differ():
    p = problem()
    a, b = (Wanda(scope).prune(p.layer, HALF, p.stats()).keep_OI for scope in ("row", "layer"))
    assert a.sum(1).tolist() == [8] * 6
    assert b.sum() == 48
    assert b.sum(1).tolist() != [8] * 6


class DropInputs:
    """A pattern that removes given inputs of every row."""

    sparsity, group = 0.1, None

    def __init__(self, *inputs):
        self.inputs = inputs

    def keep(self, score_OI, scope):
        keep_OI = torch.ones_like(score_OI, dtype=torch.bool)
        keep_OI[:, list(self.inputs)] = False
        return keep_OI


def test_removing_the_first_input_is_least_squares():
    """Every survivor is still free to move, so the sweep solves min ||X(w - w0)|| with w_0 = 0, at the cost w_0^2 / [G^-1]_00."""
    p = problem()
    swept = SparseGPT("layer", damp=0.0, width=128).prune(p.layer, DropInputs(0), p.stats())
    solved_IO = torch.linalg.lstsq(p.x_NI[:, 1:], p.x_NI @ p.layer.weight_OI.T).solution
    assert_close(swept.weight_OI[:, 1:], solved_IO.T)
    change_OI = swept.weight_OI - p.layer.weight_OI
    cost = (p.layer.weight_OI[:, 0] ** 2 / torch.linalg.inv(p.gram_II)[0, 0]).sum()
    assert_close(layer_loss(p.gram_II, change_OI), cost)


def test_removing_the_last_input_changes_nothing_else():
    p = problem()
    swept = SparseGPT("layer", damp=0.0, width=128).prune(p.layer, DropInputs(15), p.stats())
    assert torch.equal(swept.weight_OI[:, :15], p.layer.weight_OI[:, :15])
    assert swept.weight_OI[:, 15].eq(0).all()


def test_the_sweep_does_not_depend_on_the_width_when_the_mask_is_given():
    p = problem()
    keep_OI = Magnitude("row").prune(p.layer, HALF, p.stats()).keep_OI
    factor_II, _ = escalate(p.gram_II, 0.01)

    def swept(width):
        slices = iter(keep_OI.split(width, dim=1))
        return obs_sweep(p.layer.weight_OI, factor_II, lambda _: next(slices), width, None)[0]

    assert_close(swept(3), swept(16))


@pytest.mark.parametrize("group", [None, 2, 4, 8])
def test_the_sweep_is_that_of_one_input_after_the_other(group):
    """w_k -= w_j U_jk / U_jj for every removed j and every k right of it, on the weights as they are then."""
    p = problem(inputs=48)
    factor_II = escalate(p.gram_II, 0.01).factor_II
    pattern = NofM(group // 2, group) if group else HALF
    swept_OI, keep_OI = obs_sweep(p.layer.weight_OI, factor_II, partial(pattern.keep, scope="row"), 40, group)
    expected_OI = p.layer.weight_OI.clone()
    for j in range(48):
        gone_O = expected_OI[:, j].masked_fill(keep_OI[:, j], 0)
        expected_OI[:, j:] -= gone_O[:, None] * factor_II[j, j:] / factor_II[j, j]
    assert_close(swept_OI, expected_OI)
    assert torch.equal(swept_OI == 0, ~keep_OI)  # to the last bit: what is removed is w - w
    assert keep_OI.sum() == 6 * 48 / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_kth_smallest_is_that_of_a_sort(dtype):
    score_GN = torch.randn(5, 60, generator=torch.Generator().manual_seed(0)).mul(4).round().to(dtype)  # many ties
    for k in (1, 17, 60):
        assert torch.equal(kth_smallest(score_GN, k), score_GN.sort(dim=1).values[:, k - 1 : k])
        assert torch.equal(kth_smallest(score_GN.T.contiguous().T, k), kth_smallest(score_GN, k))


def _misleading(n):
    """Numbers whose sample, every APART-th of them, lies outside the range of the others."""
    x_N = torch.rand(n, generator=torch.Generator().manual_seed(1))
    x_N[::APART] = torch.arange(len(x_N[::APART])) + 2.0
    return x_N


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "x_N",
    [
        torch.randn(50_000, generator=torch.Generator().manual_seed(0)),
        torch.randn(50_000, generator=torch.Generator().manual_seed(0)).mul(2).round(),  # nearly all tie
        torch.arange(50_000.0),
        torch.zeros(50_000),
        torch.tensor([torch.inf, 1.0, -torch.inf, 2.0]).repeat(5_000),
        _misleading(50_000),
        torch.tensor([3.0]),
    ],
    ids=["random", "ties", "sorted", "zeros", "infinite", "misleading", "one"],
)
def test_the_kth_smallest_of_a_whole_layer_is_that_of_a_sort(x_N, dtype):
    x_N = x_N.to(dtype)
    sorted_N = x_N.sort().values
    for k in {1, min(2, len(x_N)), -(-len(x_N) // 10), -(-len(x_N) // 2), max(len(x_N) - 1, 1), len(x_N)}:
        assert torch.equal(kth_smallest(x_N[None], k), sorted_N[None, k - 1 : k]), k


def test_of_a_whole_layer_a_small_part_is_looked_through(monkeypatch):
    asked = []

    def partition(x_N, k):
        asked.append(len(x_N))
        return np.sort(x_N)

    monkeypatch.setattr(np, "partition", partition)
    for k in (2_000, 250_000, 498_000):
        kth_smallest(torch.randn(1, 500_000, generator=torch.Generator().manual_seed(k)), k)
    assert max(asked) < 40_000


def test_what_a_criterion_removes_is_zero_and_not_minus_zero():
    p = problem()
    weight_OI = Magnitude("row").prune(p.layer, HALF, p.stats()).weight_OI
    assert not weight_OI[weight_OI == 0].signbit().any()


def test_dense_is_the_layer_itself():
    p = problem()
    pruned = Dense().prune(p.layer, HALF, Stats(SITE))
    assert torch.equal(pruned.weight_OI, p.layer.weight_OI)
    assert pruned.keep_OI.all()
    assert Dense().asked(SITE, HALF) == 0


# --- linear algebra ---------------------------------------------------------------------------------------------------


def test_inverse_factor():
    gram_II = problem().gram_II
    factor_II, info = inverse_factor(gram_II)
    assert info == 0
    assert torch.equal(factor_II, factor_II.triu())
    assert_close(factor_II.T @ factor_II @ gram_II, torch.eye(16, dtype=torch.float64))
    remaining_II = torch.linalg.inv(gram_II[5:, 5:])  # the corner of the inverse of what remains, and its first row
    assert_close(factor_II[5, 5] ** 2, remaining_II[0, 0])
    assert_close(factor_II[5, 5] * factor_II[5, 5:], remaining_II[0])


@pytest.mark.parametrize("I", [WHOLE, WHOLE + 1, 4 * WHOLE + 3])
def test_a_triangle_is_inverted_by_halves_as_it_is_at_once(I):
    upper_II = torch.linalg.cholesky(problem(inputs=I, tokens=2 * I).gram_II).mT
    assert_close(upper_inverse(upper_II), torch.linalg.inv(upper_II).triu())


def test_layer_loss_is_the_output_error():
    p = problem()
    change_OI = p.layer.weight_OI.flip(0)
    assert_close(layer_loss(p.gram_II, change_OI), (p.x_NI @ change_OI.T).square().sum())


def test_relative_error_at_its_ends():
    p = problem()
    assert relative_error(p.gram_II, p.layer.weight_OI, p.layer.weight_OI) == 0
    assert relative_error(p.gram_II, p.layer.weight_OI, torch.zeros_like(p.layer.weight_OI)) == 1


def test_damping_is_relative():
    gram_II = problem().gram_II
    assert_close(damped(7 * gram_II, 0.1), 7 * damped(gram_II, 0.1))
    assert torch.equal(damped(gram_II, 0.0), gram_II)


def test_a_failed_cholesky_escalates_and_says_so():
    x_NI = torch.randn(3, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    singular_II = -1e-3 * torch.eye(16, dtype=torch.float64) + x_NI.T @ x_NI  # rounding at its worst
    _, info = inverse_factor(damped(singular_II, 1e-5))
    assert info != 0
    factor_II, damp = escalate(singular_II, 1e-5)
    assert damp > 1e-5
    assert_close(factor_II.T @ factor_II @ damped(singular_II, damp), torch.eye(16, dtype=torch.float64))
    assert escalate(problem().gram_II, 0.01).damp == 0.01


def test_no_damping_helps_what_is_no_gram():
    with pytest.raises(ValueError, match="no Cholesky factor"):
        escalate(torch.full((4, 4), torch.nan), 0.01)


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", [Gram(), SquaredNorm()])
def test_fold_laws(statistic):
    x_BTI = problem().x_NI.view(10, 20, 16)
    whole = fold(statistic, x_BTI)
    assert_close(fold(statistic, x_BTI[:3], x_BTI[3:]), whole)
    a, b = fold(statistic, x_BTI[:3]), fold(statistic, x_BTI[3:])
    before = a[0].clone()
    assert_close(statistic.merge(a, b), whole)
    assert torch.equal(a[0], before)
    assert whole.tokens == 200
    assert statistic.finite(whole)


@pytest.mark.parametrize("I", [1, 2, 3, 5, 7, 16, 33])
def test_a_gram_is_the_whole_product(I):
    x_BTI = torch.randint(
        -8, 9, (3, 100, I), generator=torch.Generator().manual_seed(I)
    ).double()  # whole numbers: exact sums
    x_NI = x_BTI.flatten(0, 1)
    assert torch.equal(fold(Gram(), x_BTI[:1], x_BTI[1:]).gram_II, x_NI.T @ x_NI)


@pytest.mark.parametrize("tokens", [255, 256, 257, 700])
def test_no_token_is_left_out_and_no_activation_is_written(tokens):
    x_BTI = torch.randint(-8, 9, (1, tokens, 5), generator=torch.Generator().manual_seed(tokens)).double()
    before = x_BTI.clone()
    assert torch.equal(fold(SquaredNorm(), x_BTI).total_I, x_BTI.square().sum((0, 1)))
    moments, activity = fold(Moments(), x_BTI), fold(Activity(3), x_BTI)
    assert torch.equal(moments.sum_I, x_BTI.sum((0, 1)))
    assert torch.equal(moments.squares_I, x_BTI.square().sum((0, 1)))
    assert torch.equal(activity.total_J, x_BTI.abs().sum((0, 1)))
    assert torch.equal(activity.active_J, (x_BTI.abs() > 3).sum((0, 1)).double())
    assert torch.equal(x_BTI, before)


def test_all_finite_is_not_fooled_by_its_sum():
    large_N = torch.full((4,), 3e38)
    assert not large_N.sum().isfinite()
    for fine in (large_N, torch.full((4,), 6e4, dtype=torch.float16), torch.ones(0)):
        assert all_finite(fine)
    for bad in (torch.nan, torch.inf, -torch.inf):
        large_N[1] = bad
        assert not all_finite(large_N)
    assert not all_finite(torch.tensor([torch.inf, -torch.inf]))


def test_nonzeros_are_all_but_zeros_of_either_sign():
    for dtype in (torch.float32, torch.bfloat16):
        assert nonzeros(torch.tensor([[0.0, -0.0, 1e-38], [-2.0, torch.nan, torch.inf]], dtype=dtype)) == 4
    assert nonzeros(torch.ones(0)) == 0


@pytest.mark.parametrize("statistic", [Gram(), SquaredNorm()])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_fold_tells_that_it_is_not_finite(statistic, bad):
    x_BTI = torch.ones(2, 3, 4)
    x_BTI[1, 2, 0] = bad
    assert not statistic.finite(fold(statistic, x_BTI))


def test_squared_norms_are_the_diagonal_of_the_gram():
    x_BTI = problem(dtype=torch.bfloat16).x_NI[None]
    assert_close(fold(SquaredNorm(), x_BTI).total_I.float(), fold(Gram(), x_BTI).gram_II.diagonal())


def test_the_dtype_of_the_weights_comes_back():
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        p = problem(dtype=dtype)
        for method in (Wanda("row"), Magnitude("layer"), SparseGPT("layer", 0.01, 128)):
            pruned = method.prune(p.layer, HALF, p.stats())
            assert pruned.weight_OI.dtype == dtype
            assert (pruned.weight_OI == 0).sum() == 48


def test_a_read_that_was_not_declared_is_named():
    p = problem()
    with pytest.raises(KeyError, match="did not declare"):
        Wanda("row").score(p.layer, Stats(SITE))


def test_a_derived_value_is_computed_once_for_all_who_share_the_state():
    p, calls = problem(), []
    stats = p.stats()

    def derive(state):
        calls.append(state)
        return state.gram_II.sum()

    other = Stats(SITE, stats.folded)
    assert stats.derived(GRAM, derive) == other.derived(GRAM, derive)
    assert len(calls) == 1
    method = SparseGPT("layer", 0.01, 128)
    assert stats.derived(GRAM, method.factor) is other.derived(GRAM, method.factor)
    assert NORM not in stats.read


def test_a_derived_value_has_arguments():
    calls = []

    def derive(state, power):
        calls.append(power)
        return state.tokens**power

    stats = problem().stats()
    assert [stats.derived(NORM, derive, power) for power in (1, 2, 1)] == [200, 40000, 200]
    assert calls == [1, 2]

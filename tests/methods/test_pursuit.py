"""`pursuit`: what it ranks by is what exchanges cost, no row's refitted loss ever rises, and what a settled row has tried fails."""

from __future__ import annotations

import pytest
import torch
from problems import problem, white
from textbook import best_survivors
from torch.testing import assert_close

from sparsity.core import Pruned, UserError
from sparsity.correctors import Optimal
from sparsity.linalg import damped, layer_loss
from sparsity.methods import Pursuit, SparseGPT, Wanda, pursuit
from sparsity.methods.exchange import trade
from sparsity.patterns import NofM, Unstructured

HALF = Unstructured(0.5)
PATTERNS = [HALF, Unstructured(0.7), NofM(2, 4), NofM(4, 8)]
BASES = [Wanda("row"), Wanda("layer"), SparseGPT("layer", 0.01, 8)]
EXACT = 60  # steps, after which a refit of 48 inputs has converged


def exact_losses(p, keep_OI):
    """(O,) of the damped minimum of every row, by Cholesky."""
    h_II = damped(p.gram_II, 0.01)
    change_OI = best_survivors(p.layer.weight_OI, keep_OI, h_II) - p.layer.weight_OI
    return ((change_OI @ h_II) * change_OI).sum(1)


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("fraction", [0.01, 0.1, 1.0])
def test_the_refitted_loss_of_no_row_rises_and_the_facts_say_how_much_is_left(fraction, pattern, base):
    p = problem(8, 48, 100)
    before = base.prune(p.layer, pattern, p.stats())
    found = [exact_losses(p, before.keep_OI)]
    for rounds in (1, 2, 4, 30):
        after = Pursuit(base, rounds, EXACT, fraction, 0.01).prune(p.layer, pattern, p.stats())
        found.append(exact_losses(p, after.keep_OI))
        assert (found[-1] <= found[-2] * (1 + 1e-9)).all()
        assert after.facts["loss_left"] == pytest.approx((found[-1].sum() / found[0].sum()).item(), rel=1e-6)
    assert found[-1].sum() < 0.99 * found[0].sum()


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_survivors_have_their_best_values(pattern, base):
    p = problem(8, 48, 100)
    after = Pursuit(base, 9, EXACT, 0.1, 0.01).prune(p.layer, pattern, p.stats())
    best_OI = best_survivors(p.layer.weight_OI, after.keep_OI, damped(p.gram_II, 0.01))
    assert_close(after.weight_OI, best_OI, rtol=1e-6, atol=1e-7)
    assert after.weight_OI[~after.keep_OI].eq(0).all()


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_row_and_every_group_keeps_its_count(pattern, base):
    p, group = problem(8, 48, 100), pattern.group or 48
    a, b = (
        m.prune(p.layer, pattern, p.stats()).keep_OI.unflatten(1, (-1, group)).sum(2)
        for m in (base, Pursuit(base, 9, 5, 0.2, 0.01))
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_a_round_it_refits_the_mask_of_its_base(dtype):
    p = problem(8, 48, 100, dtype=dtype)
    before = BASES[0].prune(p.layer, HALF, p.stats())
    after = Pursuit(BASES[0], 0, 5, 0.1, 0.01).prune(p.layer, HALF, p.stats())
    assert torch.equal(after.keep_OI, before.keep_OI)
    assert after.weight_OI.dtype == dtype
    optimal = Optimal(10, 0.01, None, "float32", "all", 0.05, "l2").correct(p.layer, before, p.stats())
    assert_close(after.weight_OI, optimal.weight_OI, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_a_settled_row_stays(pattern):
    """One pair at a time: what was tried last is what is tried first by another."""
    p, once = problem(8, 48, 100), Pursuit(Wanda("row"), 1000, EXACT, 1e-9, 0.01)
    a = once.prune(p.layer, pattern, p.stats())
    b = Pursuit(once, 1000, EXACT, 1e-9, 0.01).prune(p.layer, pattern, p.stats())
    assert a.facts["settled"] == b.facts["settled"] == 1
    assert a.facts["swaps"] > b.facts["swaps"] == 0
    assert torch.equal(a.keep_OI, b.keep_OI)


def test_white_inputs_leave_nothing_to_exchange():
    """There r is 0 on the survivors and w0 where removed, and Wanda's mask the best of all."""
    p = white(problem())
    for pattern in PATTERNS:
        a, b = (m.prune(p.layer, pattern, p.stats()) for m in (Wanda("row"), Pursuit(Wanda("row"), 9, 5, 0.5, 0.01)))
        assert torch.equal(a.keep_OI, b.keep_OI)
        assert (b.facts["swaps"], b.facts["settled"]) == (0, 1)


def test_it_beats_refitting_by_as_much_as_it_promises():
    """`optimal`, run to the end, on the mask that it found and on that of its base."""
    p = problem(32, 64, 100)
    optimal = Optimal(200, 0.01, None, "float64", "all", 0.05, "l2")
    before, after = (m.prune(p.layer, HALF, p.stats()) for m in (BASES[0], Pursuit(BASES[0], 20, 20, 0.1, 0.01)))
    a, b = (optimal.correct(p.layer, pruned, p.stats()).weight_OI - p.layer.weight_OI for pruned in (before, after))
    assert layer_loss(p.gram_II, b) < 0.85 * layer_loss(p.gram_II, a)


@pytest.mark.parametrize("pattern", [HALF, NofM(2, 4)], ids=str)
def test_panels_of_rows_change_nothing(pattern, monkeypatch):
    p, method = problem(9, 48, 100), Pursuit(Wanda("row"), 9, 5, 0.1, 0.01)
    whole = method.prune(p.layer, pattern, p.stats())
    monkeypatch.setattr(pursuit, "rows_of_panel", lambda inputs: 2)
    panels = method.prune(p.layer, pattern, p.stats())
    assert torch.equal(whole.keep_OI, panels.keep_OI)
    assert_close(whole.weight_OI, panels.weight_OI)
    assert_close(whole.facts, panels.facts)


def test_a_trade_takes_the_best_pairs_first_and_none_at_a_loss():
    keep_RI = torch.tensor([[True, True, True, False, False, False, False, False]] * 3)
    gain_RI = torch.tensor([[9.0, 9.0, 9.0, 1.0, 5.0, 3.0, 0.0, 0.0]] * 3)
    cost_RI = torch.tensor([[2.0, 0.5, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0]] * 3)
    kept_RI, swaps_R = trade(gain_RI, cost_RI, keep_RI, torch.tensor([0, 1, 9]).clamp(max=8), None)
    assert swaps_R.tolist() == [0, 1, 2]  # 5 for 0.5 and 3 for 2, but not 1 for 4
    assert [row.nonzero().flatten().tolist() for row in kept_RI] == [[0, 1, 2], [0, 2, 4], [2, 4, 5]]
    kept_RI, swaps_R = trade(gain_RI, cost_RI, keep_RI, torch.tensor([0, 1, 8]), 4)
    assert swaps_R.tolist() == [0, 1, 1]  # inputs 4 to 7 have no survivor to give
    assert [row.nonzero().flatten().tolist() for row in kept_RI] == [[0, 1, 2], [0, 2, 3], [0, 2, 3]]


@pytest.mark.parametrize("options", [(-1, 5, 0.1, 0.01), (8, 0, 0.1, 0.01), (8, 5, 0.0, 0.01), (8, 5, 0.1, -1.0)])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(UserError, match="is not valid"):
        Pursuit(Wanda("row"), *options)


def test_all_or_nothing_has_no_pair():
    p = problem()
    full = Pruned(p.layer.weight_OI, torch.ones(6, 16, dtype=torch.bool))
    refined = Pursuit(Wanda("row"), 5, 5, 0.5, 0.01).exchange(p.layer, HALF, full, p.stats())
    assert refined.keep_OI.all()
    assert_close(refined.weight_OI, p.layer.weight_OI)

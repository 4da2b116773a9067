"""`swaps` against all pairs with every loss from scratch, at its fixed points, and in what it must leave alone."""

from __future__ import annotations

import pytest
import torch
from contract import CASES, Parts, counts_are_exact, walk
from problems import GRAM, problem, white
from textbook_swaps import loss, one_swaps, pairs, swapped
from torch.testing import assert_close

from sparsity.core import Stats, UserError
from sparsity.correctors import NoCorrection
from sparsity.linalg import layer_loss
from sparsity.methods import Dense, Magnitude, Route, SparseGPT, Swaps, Wanda, swaps
from sparsity.patterns import NofM, Unstructured

HALF = Unstructured(0.5)
PATTERNS = [HALF, Unstructured(0.3), NofM(2, 4), NofM(4, 8), NofM(1, 4)]
BASES = [Wanda("row"), Wanda("layer"), SparseGPT("layer", 0.01, 8)]
ALL = 16  # candidates: as many as inputs


def survivors(layer, base):
    """The value of each weight if it survives."""
    return torch.where(base.keep_OI, base.weight_OI, layer.weight_OI)


def losses(p, pruned) -> float:
    return layer_loss(p.gram_II, pruned.weight_OI - p.layer.weight_OI).item()


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_with_all_candidates_it_is_the_textbook(seed, pattern, base):
    p = problem(seed=seed)
    before = base.prune(p.layer, pattern, p.stats())
    after = Swaps(base, 100, ALL).prune(p.layer, pattern, p.stats())
    values_OI = survivors(p.layer, before)
    expected_OI = one_swaps(p.layer.weight_OI, values_OI, before.keep_OI, p.gram_II, pattern.group or 16)
    assert torch.equal(after.keep_OI, expected_OI)
    assert torch.equal(after.weight_OI, values_OI * expected_OI)
    assert after.facts["settled"] == 1
    assert after.facts["swaps"] > 0 or base != BASES[0]  # others may leave nothing to swap


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_at_its_end_no_swap_of_two_weights_lowers_a_rows_loss(pattern, base):
    p = problem(seed=4)
    values_OI = survivors(p.layer, base.prune(p.layer, pattern, p.stats()))
    after = Swaps(base, 100, ALL).prune(p.layer, pattern, p.stats())
    for w0_I, value_I, keep_I in zip(p.layer.weight_OI, values_OI, after.keep_OI, strict=True):
        here = loss(w0_I, value_I, keep_I, p.gram_II)
        for pair in pairs(keep_I, pattern.group or 16):
            assert loss(w0_I, value_I, swapped(keep_I, *pair), p.gram_II) >= here * (1 - 1e-12)


@pytest.mark.parametrize("candidates", [1, 3, 8, ALL])
@pytest.mark.parametrize("pattern", [HALF, NofM(2, 4)], ids=str)
def test_a_local_optimum_is_a_fixed_point(pattern, candidates):
    p, once = problem(8, 48, 100), Swaps(Wanda("row"), 1000, candidates)
    a = once.prune(p.layer, pattern, p.stats())
    b = Swaps(once, 1000, candidates).prune(p.layer, pattern, p.stats())
    assert a.facts["settled"] == 1
    assert a.facts["swaps"] > 0
    assert torch.equal(a.keep_OI, b.keep_OI)
    assert torch.equal(a.weight_OI, b.weight_OI)
    assert b.facts == {"swaps": 0, "settled": 1, "loss_left": 1}


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("candidates", [2, 8])
def test_the_loss_falls_by_what_the_facts_say(candidates, pattern, base):
    p = problem(8, 48, 100)
    start = losses(p, base.prune(p.layer, pattern, p.stats()))
    found = [start]
    for sweeps in (1, 2, 3, 100):
        pruned = Swaps(base, sweeps, candidates).prune(p.layer, pattern, p.stats())
        found.append(losses(p, pruned))
        assert found[-1] / start == pytest.approx(pruned.facts["loss_left"], rel=1e-9)
        assert found[-1] < found[-2] or pruned.facts["settled"] == 1
    assert found[-1] < start


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_row_and_every_group_keeps_its_count(pattern, base):
    p = problem(8, 48, 100)
    a, b = (m.prune(p.layer, pattern, p.stats()).keep_OI for m in (base, Swaps(base, 9, 8)))
    group = pattern.group or 48
    assert torch.equal(a.unflatten(1, (-1, group)).sum(2), b.unflatten(1, (-1, group)).sum(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", BASES, ids=str)
def test_without_a_sweep_it_is_its_base_bit_for_bit(base, dtype):
    p = problem(dtype=dtype)
    a, b = (m.prune(p.layer, HALF, p.stats()) for m in (base, Swaps(base, 0, 8)))
    assert torch.equal(a.keep_OI, b.keep_OI)
    assert torch.equal(a.weight_OI, b.weight_OI)
    assert b.weight_OI.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_other_dtypes_the_loss_falls_and_it_ends(dtype):
    p = problem(8, 48, 100, dtype=dtype)
    before, after = (m.prune(p.layer, HALF, p.stats()) for m in (Wanda("row"), Swaps(Wanda("row"), 1000, 8)))
    exact_II = p.x_NI.double().T @ p.x_NI.double()
    a, b = (layer_loss(exact_II, q.weight_OI.double() - p.layer.weight_OI.double()) for q in (before, after))
    assert b / a == pytest.approx(after.facts["loss_left"], rel=1e-4)
    assert b < a
    assert after.facts["settled"] == 1


def test_white_inputs_leave_nothing_to_swap():
    """There a weight's loss is its own, and Wanda's mask the best."""
    p = white(problem())
    for pattern in PATTERNS:
        a, b = (m.prune(p.layer, pattern, p.stats()) for m in (Wanda("row"), Swaps(Wanda("row"), 9, ALL)))
        assert torch.equal(a.keep_OI, b.keep_OI)
        assert b.facts["swaps"] == 0


@pytest.mark.parametrize("pattern", [HALF, NofM(2, 4)], ids=str)
def test_panels_of_rows_change_nothing(pattern, monkeypatch):
    p, method = problem(9, 48, 100), Swaps(Wanda("row"), 9, 8)
    whole = method.prune(p.layer, pattern, p.stats())
    monkeypatch.setattr(swaps, "PANEL", 2 * 16**2)
    panels = method.prune(p.layer, pattern, p.stats())
    assert torch.equal(whole.keep_OI, panels.keep_OI)
    assert_close(whole.facts, panels.facts)


def test_what_the_base_leaves_alone_is_left_alone():
    p = problem()
    refined = Swaps(Dense(), 9, 8)
    assert refined.asked(p.layer.site, HALF) == 0
    pruned = refined.prune(p.layer, HALF, Stats(p.layer.site))
    assert torch.equal(pruned.weight_OI, p.layer.weight_OI)
    assert pruned.keep_OI.all()


def test_inputs_that_were_always_0_lose_nothing_more():
    """SparseGPT removes all their weights; they may come back, but nobody's count changes."""
    p = problem()
    p.x_NI[:, [0, 9]] = 0
    for pattern in (HALF, NofM(2, 4)):
        a, b = (m.prune(p.layer, pattern, p.stats()) for m in (BASES[2], Swaps(BASES[2], 9, 8)))
        assert torch.equal(a.keep_OI.sum(1), b.keep_OI.sum(1))
        assert losses(p, b) <= losses(p, a)


ROUTED = [
    Swaps(Route({"attention": Wanda("row"), "mlp": Magnitude("layer")}), 3, 4),
    Route({"attention": Swaps(Wanda("layer"), 3, 4), "mlp": Wanda("row")}),
    Swaps(Swaps(Wanda("row"), 1, 4), 3, 8),
    Swaps(SparseGPT("layer", 0.01, 16), 3, 4),
]


@pytest.mark.parametrize("method", ROUTED, ids=str)
def test_it_composes_with_routes_and_refinements(method):
    walked = walk(Parts(method, HALF, NoCorrection()), CASES[0])
    counts_are_exact(walked)
    assert GRAM in {tap for taps in walked.plan.needs.values() for tap in taps}


@pytest.mark.parametrize("options", [(-1, 8), (3, 0)])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(UserError, match="is not valid"):
        Swaps(Wanda("row"), *options)

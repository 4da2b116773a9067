"""`dsnot` against algorithm 1 of its paper, one row and one pair at a time, and what it promises besides."""

from __future__ import annotations

import pytest
import torch
from problems import Problem, fold, problem
from textbook_swaps import dsnot

from sparsity.core import Folded, Stats, Tap, UserError
from sparsity.methods import DSnoT, SparseGPT, Wanda
from sparsity.patterns import NofM, Unstructured
from sparsity.statistics import Moments

HALF = Unstructured(0.5)
PATTERNS = [HALF, Unstructured(0.7), NofM(2, 4), NofM(4, 8)]
BASES = [Wanda("row"), Wanda("layer"), SparseGPT("layer", 0.01, 8)]


def shifted(seed: int = 0, dtype: torch.dtype = torch.float64) -> Problem:
    """Inputs with a mean, without which there is nothing to match."""
    p = problem(8, 32, 200, seed)
    mean_I = torch.randn(32, generator=torch.Generator().manual_seed(seed + 100), dtype=torch.float64)
    return Problem((p.x_NI + 3 * mean_I).to(dtype), type(p.layer)(p.layer.site, p.layer.weight_OI.to(dtype)))


def stats(p: Problem) -> Stats:
    moments = Tap(Moments())
    return Stats(p.layer.site, {**p.stats().folded, moments: Folded(fold(Moments(), p.x_NI[None]))})


def prune(method, p: Problem, pattern=HALF):
    return method.prune(p.layer, pattern, stats(p))


def error(p: Problem, pruned) -> torch.Tensor:
    return ((p.layer.weight_OI - pruned.weight_OI) * p.x_NI.mean(0)).sum(1).abs()


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("cycles", [1, 3, 50])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_textbook(seed, cycles, pattern, base):
    p = shifted(seed)
    before, after = prune(base, p, pattern), prune(DSnoT(base, cycles, 0.1, 1.0), p, pattern)
    value_OI = torch.where(before.keep_OI, before.weight_OI, p.layer.weight_OI)
    expected_OI = dsnot(p.layer.weight_OI, value_OI, before.keep_OI, p.x_NI, pattern.group or 32, cycles, 0.1)
    assert torch.equal(after.keep_OI, expected_OI)
    assert torch.equal(after.weight_OI, value_OI * expected_OI)
    assert after.facts["swaps"] > 0 or base != BASES[0]  # others may leave nothing to swap


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_mean_error_of_no_row_rises_and_the_facts_say_how_much_is_left(pattern):
    p = shifted()
    found = [error(p, prune(Wanda("row"), p, pattern))]
    for cycles in range(1, 9):
        pruned = prune(DSnoT(Wanda("row"), cycles, 0.05, 1.0), p, pattern)
        found.append(error(p, pruned))
        assert (found[-1] <= found[-2] * (1 + 1e-9)).all()
        assert pruned.facts["mean_error_left"] == pytest.approx((found[-1].mean() / found[0].mean()).item())
        assert pruned.facts["settled"] == pytest.approx((found[-1] <= 0.05).double().mean().item())
        assert 0 < pruned.facts["swaps"] <= cycles
    assert found[-1].sum() < 0.7 * found[0].sum()


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_where_it_ends_it_stays(pattern):
    p, once = shifted(), DSnoT(Wanda("row"), 1000, 0.01, 1.0)
    a, b = prune(once, p, pattern), prune(DSnoT(once, 1000, 0.01, 1.0), p, pattern)
    assert torch.equal(a.keep_OI, b.keep_OI)
    assert b.facts["swaps"] == 0


@pytest.mark.parametrize("base", BASES, ids=str)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_row_and_every_group_keeps_its_count(pattern, base):
    p, group = shifted(), pattern.group or 32
    a, b = (prune(m, p, pattern).keep_OI.unflatten(1, (-1, group)).sum(2) for m in (base, DSnoT(base, 50, 0.0, 1.0)))
    assert torch.equal(a, b)


@pytest.mark.parametrize("options", [(0, 0.0, 1.0), (50, 1e9, 1.0)], ids=["no cycle", "any error will do"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base", BASES, ids=str)
def test_without_a_swap_it_is_its_base_bit_for_bit(base, dtype, options):
    p = shifted(dtype=dtype)
    a, b = prune(base, p), prune(DSnoT(base, *options), p)
    assert torch.equal(a.keep_OI, b.keep_OI)
    assert torch.equal(a.weight_OI, b.weight_OI)


def test_the_power_of_the_variance_matters_unless_all_are_equal():
    p = shifted()
    a, b = (prune(DSnoT(Wanda("row"), 50, 0.0, power), p).keep_OI for power in (0.0, 1.0))
    assert not torch.equal(a, b)
    even = Problem((p.x_NI - p.x_NI.mean(0)) / p.x_NI.std(0) + p.x_NI.mean(0), p.layer)
    a, b = (prune(DSnoT(Wanda("row"), 50, 0.0, power), even).keep_OI for power in (0.0, 1.0))
    assert torch.equal(a, b)


def test_an_input_that_never_changes_is_no_trouble():
    p = shifted()
    p.x_NI[:, 3], p.x_NI[:, 5] = 0, 2
    before, pruned = (prune(m, p) for m in (Wanda("row"), DSnoT(Wanda("row"), 50, 0.0, 1.0)))
    assert pruned.keep_OI.sum(1).tolist() == [16] * 8
    assert (error(p, pruned) <= error(p, before)).all()
    assert pruned.keep_OI[:, 5].sum() > before.keep_OI[:, 5].sum()  # its merit has no bound
    assert pruned.weight_OI.isfinite().all()


@pytest.mark.parametrize("options", [(-1, 0.1, 1.0), (50, -0.1, 1.0), (50, float("nan"), 1.0)])
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(UserError, match="is not valid"):
        DSnoT(Wanda("row"), *options)

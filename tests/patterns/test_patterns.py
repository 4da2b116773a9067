"""Masks: exact counts, the best scores, ties by index; for any scores and any fraction that a user can write."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import SITE

from sparsity.core import Layer, UserError
from sparsity.patterns import NofM, Unstructured
from sparsity.patterns.unstructured import keep_largest

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 24))
FRACTIONS = st.integers(0, 99).map(lambda percent: percent / 100)


@st.composite
def scores(draw, columns_multiple_of: int = 1) -> torch.Tensor:
    """Few distinct values, so that ties are the rule, as in a quantised model; now and then all distinct or -0.0 beside 0.0."""
    O, I = draw(SHAPES)
    I = -(-I // columns_multiple_of) * columns_multiple_of
    kind = draw(st.sampled_from(["ties", "distinct", "signed zeros"]))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    if kind == "distinct":
        return torch.randperm(O * I, generator=g).view(O, I).float()
    if kind == "ties":
        return torch.randint(0, 4, (O, I), generator=g).float()
    return torch.randint(0, 2, (O, I), generator=g) * torch.tensor(-0.0)


def plain(score_N: list[float], removed: int) -> list[bool]:
    """Sort by score, then by index; remove from the front."""
    order = sorted(range(len(score_N)), key=lambda i: (score_N[i], i))
    return [i not in order[:removed] for i in range(len(score_N))]


@given(scores(), FRACTIONS)
@settings(deadline=None)
def test_unstructured_rows(score_OI, sparsity):
    removed = math.floor(Fraction(str(sparsity)) * score_OI.shape[1])
    assert Unstructured(sparsity).keep(score_OI, "row").tolist() == [plain(row, removed) for row in score_OI.tolist()]


@given(scores(), FRACTIONS)
@settings(deadline=None)
def test_unstructured_layer(score_OI, sparsity):
    removed = math.floor(Fraction(str(sparsity)) * score_OI.numel())
    kept = Unstructured(sparsity).keep(score_OI, "layer")
    assert kept.shape == score_OI.shape
    assert kept.flatten().tolist() == plain(score_OI.flatten().tolist(), removed)


@given(st.data(), st.sampled_from([(2, 4), (4, 8), (1, 4), (2, 8), (3, 3), (1, 1)]))
@settings(deadline=None)
def test_n_of_m(data, n_m):
    n, m = n_m
    score_OI = data.draw(scores(columns_multiple_of=m))
    groups = score_OI.reshape(-1, m).tolist()
    for scope in ("row", "layer"):
        keep_OI = NofM(n, m).keep(score_OI, scope)
        assert keep_OI.reshape(-1, m).tolist() == [plain(group, m - n) for group in groups]


@given(scores(columns_multiple_of=8))
@settings(deadline=None)
def test_looser_patterns_keep_no_less_score(score_OI):
    kept = [
        score_OI[pattern.keep(score_OI, scope)].sum().item()
        for pattern, scope in (
            (NofM(2, 4), "row"),
            (NofM(4, 8), "row"),
            (Unstructured(0.5), "row"),
            (Unstructured(0.5), "layer"),
        )
    ]
    assert kept == sorted(kept)


@given(scores(), st.data())
@settings(deadline=None)
def test_a_monotone_change_of_the_scores_changes_no_mask(score_OI, data):
    sparsity = data.draw(FRACTIONS)
    pattern = Unstructured(sparsity)
    assert torch.equal(pattern.keep(score_OI, "layer"), pattern.keep(score_OI * 8 + 1, "layer"))


def test_the_fraction_is_the_decimal_that_was_written():
    """0.29 * 100 is 28.999999999999996 in binary: the user meant 29."""
    assert math.floor(0.29 * 100) == 28
    assert (~Unstructured(0.29).keep(torch.rand(3, 100), "row")).sum(1).tolist() == [29] * 3


def test_so_is_a_part_of_it():
    assert 0.7 * 0.1 < 0.07
    assert Unstructured(0.7).partly(0.1) == Unstructured(0.07)


def test_two_of_four_is_a_four_of_eight():
    keep_OI = NofM(2, 4).keep(torch.rand(5, 32), "row")
    assert (keep_OI.view(5, 4, 8).sum(-1) == 4).all()


def test_slices_that_are_not_contiguous():
    score_OI = torch.rand(8, 6).T  # as a transposed weight
    for pattern in (Unstructured(0.5), NofM(2, 4)):
        for scope in ("row", "layer"):
            assert torch.equal(pattern.keep(score_OI, scope), pattern.keep(score_OI.contiguous(), scope))


def test_all_but_one_can_go():
    assert keep_largest(torch.tensor([[3.0, 5.0, 1.0]]), 2).tolist() == [[False, True, False]]


@pytest.mark.parametrize("sparsity", [1, 1.0, -0.1, 2, math.nan])
def test_a_fraction_out_of_range_is_refused(sparsity):
    with pytest.raises(UserError, match=r"^sparsity=.* is not valid: expected a number >= 0 and < 1"):
        Unstructured(sparsity)


@pytest.mark.parametrize(("n", "m"), [(0, 4), (5, 4), (-1, 4), (1, 0)])
def test_n_of_m_out_of_range_is_refused(n, m):
    with pytest.raises(UserError, match=r"expected (n <= m|a whole number >= 1)"):
        NofM(n, m)


def test_a_layer_that_does_not_divide_is_named():
    layer = Layer(SITE, torch.zeros(4, 18))
    NofM(1, 3).check(layer)
    with pytest.raises(UserError, match=r"q_proj has 18 inputs.*multiple of 4"):
        NofM(2, 4).check(layer)


@given(scores(), FRACTIONS, FRACTIONS)
@settings(deadline=None)
def test_a_part_of_unstructured_is_the_product_of_the_decimals(score_OI, sparsity, share):
    removed = math.floor(Fraction(str(sparsity)) * Fraction(str(share)) * score_OI.shape[1])
    assert Unstructured(sparsity).partly(share).keep(score_OI, "row").tolist() == [
        plain(row, removed) for row in score_OI.tolist()
    ]


@given(st.data(), st.sampled_from([(2, 4), (4, 8), (1, 4), (2, 8), (3, 3), (1, 1)]), FRACTIONS)
@settings(deadline=None)
def test_a_part_of_n_of_m_removes_whole_weights_of_every_group(data, n_m, share):
    n, m = n_m
    score_OI = data.draw(scores(columns_multiple_of=m))
    removed = math.floor((m - n) * Fraction(str(share)))
    keep_OI = NofM(n, m).partly(share).keep(score_OI, "row")
    assert keep_OI.reshape(-1, m).tolist() == [plain(group, removed) for group in score_OI.reshape(-1, m).tolist()]


@pytest.mark.parametrize("pattern", [Unstructured(0.0), Unstructured(0.29), Unstructured(0.7), NofM(2, 4), NofM(3, 8)])
def test_parts_go_from_nothing_to_the_whole_and_never_back(pattern):
    assert pattern.partly(1.0) == pattern
    assert pattern.partly(0.0).sparsity == 0
    assert pattern.partly(0.0).group == pattern.group
    score_OI = torch.rand(4, 80, generator=torch.Generator().manual_seed(0))
    for scope in ("row", "layer"):
        removed = [(~pattern.partly(k / 97).keep(score_OI, scope)).sum().item() for k in range(98)]
        assert removed == sorted(removed)
        assert removed[0] == 0


def test_asked():
    assert NofM(1, 4).sparsity == 0.75
    assert Unstructured(0.3).sparsity == 0.3

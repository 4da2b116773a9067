"""RIA against its definition, one weight at a time, and in its limits."""

from __future__ import annotations

import pytest
import torch
from problems import GRAM, NORM, Problem, problem, white
from torch import Tensor
from torch.testing import assert_close

from sparsity.core import Folded, Layer, Stats
from sparsity.methods import RIA, Magnitude, Wanda
from sparsity.patterns import NofM, Unstructured

HALF = Unstructured(0.5)


def with_weight(p: Problem, weight_OI: Tensor) -> Problem:
    return Problem(p.x_NI, Layer(p.layer.site, weight_OI))


def score(method, p: Problem) -> Tensor:
    return method.score(p.layer, p.stats())


def keep(method, p: Problem, pattern=HALF) -> Tensor:
    return method.prune(p.layer, pattern, p.stats()).keep_OI


def textbook(W: Tensor, X: Tensor, power: float) -> Tensor:
    """Plug-and-Play (ICLR 2024), eq. 3 and 4: a zero has no share of anything."""
    found = torch.zeros_like(W)
    for o in range(W.shape[0]):
        for i in range(W.shape[1]):
            if W[o, i] != 0:
                row = sum(abs(W[o, k].item()) for k in range(W.shape[1]))
                column = sum(abs(W[k, i].item()) for k in range(W.shape[0]))
                norm = sum(x * x for x in X[:, i].tolist()) ** 0.5
                found[o, i] = (abs(W[o, i].item()) / row + abs(W[o, i].item()) / column) * norm**power
    return found


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_scores_are_the_papers(power):
    p = problem()
    assert_close(score(RIA("row", power), p), textbook(p.layer.weight_OI, p.x_NI, power))


def test_a_row_or_a_column_of_zeros_scores_0_and_harms_no_other():
    p = problem()
    weight_OI = p.layer.weight_OI.clone()
    weight_OI[2] = 0
    weight_OI[:, 5] = 0
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        cast = with_weight(p, weight_OI.to(dtype))
        found = score(RIA("row", 0.5), cast)
        assert found.isfinite().all()
        assert found[2].eq(0).all()
        assert found[:, 5].eq(0).all()
        expected = textbook(cast.layer.weight_OI.double(), p.x_NI, 0.5)
        assert_close(found.double(), expected, rtol=1e-5, atol=0)
    assert score(RIA("row", 0.5), with_weight(p, 0 * weight_OI)).eq(0).all()


def test_an_input_that_was_always_0_goes_first():
    p = problem()
    x_NI = p.x_NI.clone()
    x_NI[:, 3] = 0
    kept_OI = keep(RIA("row", 0.5), Problem(x_NI, p.layer))
    assert not kept_OI[:, 3].any()


@pytest.mark.parametrize("scope", ["row", "layer"])
def test_the_scope_is_where_scores_compare(scope):
    p = problem()
    found, kept_OI = score(RIA(scope, 0.5), p), keep(RIA(scope, 0.5), p)
    if scope == "row":
        assert kept_OI.sum(1).tolist() == [8] * 6
        for o in range(6):
            assert found[o][kept_OI[o]].min() > found[o][~kept_OI[o]].max()
    else:
        assert kept_OI.sum() == 48
        assert kept_OI.sum(1).unique().numel() > 1
        assert found[kept_OI].min() > found[~kept_OI].max()


def test_a_single_output_is_a_matter_of_norms_and_rows_alone():
    """With one row every weight is all of its column: |W_i| / sum |W| + 1, and the score is that times the norm."""
    p = problem(outputs=1)
    weight_OI = p.layer.weight_OI
    share_OI = weight_OI.abs() / weight_OI.abs().sum()
    norm_I = p.x_NI.norm(dim=0)
    assert_close(score(RIA("row", 1.0), p), (share_OI + 1) * norm_I)
    # with equal norms its order is Magnitude's, and Wanda's
    even = white(p)
    assert torch.equal(keep(RIA("row", 0.5), even), keep(Magnitude("row"), even))
    assert torch.equal(keep(RIA("row", 0.5), even), keep(Wanda("row"), even))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_where_columns_weigh_the_same_it_is_magnitude_or_wanda(power):
    """A weight matrix whose rows and columns all have one sum (a circulant): the shares are |W|, up to one number."""
    p = problem(outputs=16)
    first_I = p.layer.weight_OI[0]
    signs_OI = p.layer.weight_OI.sign()
    circulant = with_weight(p, torch.stack([first_I.abs().roll(o) for o in range(16)]) * signs_OI)
    for scope in ("row", "layer"):
        method = Wanda(scope) if power else Magnitude(scope)
        for pattern in (HALF, NofM(2, 4)):
            assert_close(
                score(RIA(scope, power), circulant) / score(method, circulant).clamp(min=1e-300),
                torch.full((16, 16), (2 / first_I.abs().sum() * (200**0.5 if power else 1)).item()).double(),
            )
            if power:  # no ties
                assert torch.equal(keep(RIA(scope, power), circulant, pattern), keep(method, circulant, pattern))


def test_no_row_and_no_column_is_emptied_for_being_small():
    """The purpose of the shares: magnitude removes all weights of tiny rows and columns, RIA does not."""
    p = white(problem(outputs=16))
    weight_OI = p.layer.weight_OI.clone()
    weight_OI[3] *= 1e-3
    weight_OI[:, 7] *= 1e-3
    small = with_weight(p, weight_OI)
    assert not keep(Magnitude("layer"), small)[3].any()
    assert not keep(Magnitude("layer"), small)[:, 7].any()
    kept_OI = keep(RIA("layer", 0.5), small)
    assert kept_OI[3].any()
    assert kept_OI[:, 7].any()


def test_scaling_the_weights_changes_no_score():
    p = problem()
    for scale in (1e-6, 8.0):
        scaled = with_weight(p, scale * p.layer.weight_OI)
        assert_close(score(RIA("row", 0.5), scaled), score(RIA("row", 0.5), p))


def test_only_squared_norms_are_asked_for():
    p = problem()
    taps = RIA("row", 0.5).needs(p.layer.site)
    assert tuple(taps) == (NORM,)
    stats = Stats(p.layer.site, {NORM: Folded(p.stats()[NORM])})
    assert GRAM not in stats.folded
    RIA("row", 0.5).prune(p.layer, HALF, stats)

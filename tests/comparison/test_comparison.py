"""Accuracies of two models on the same documents, seeds, many comparisons at once, and the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from experiments.coverage.cells import accuracies, seeds
from sparsity.comparison import Interval, holm, over_seeds, paired_accuracy, seeds_difference, verdict
from sparsity.core import UserError


def answers(gained: int, lost: int, both: int = 0, neither: int = 0) -> tuple[list[int], list[int]]:
    kinds = [(0, 1)] * gained + [(1, 0)] * lost + [(1, 1)] * both + [(0, 0)] * neither
    return [a for a, _ in kinds], [b for _, b in kinds]


# --- accuracies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gained,lost", [(0, 3), (1, 9), (5, 2), (30, 12), (7, 7)])
def test_p_is_mcnemar_s(gained: int, lost: int):
    """Twice the smaller tail of a fair coin, at most 1; documents on which both agree do not enter."""
    tosses = gained + lost
    tail = sum(math.comb(tosses, k) for k in range(min(gained, lost) + 1)) / 2**tosses
    found = [paired_accuracy(*answers(gained, lost, both)).p for both in (3, 50)]
    assert found == pytest.approx([min(1.0, 2 * tail)] * 2)


@pytest.mark.parametrize("gained,lost,both,neither", [(12, 5, 60, 23), (0, 4, 10, 36), (1, 0, 1, 0), (9, 9, 1, 1)])
def test_the_limits_are_where_the_score_test_turns(gained: int, lost: int, both: int, neither: int):
    """The score test written from its definition: the likelihood under "the difference is d" maximised by brute force."""
    count = gained + lost + both + neither
    found = paired_accuracy(*answers(gained, lost, both, neither))
    for d in (found.low, found.high):
        loss = np.linspace(max(0, -d), (1 - d) / 2, 2_000_001)[1:-1]
        likelihood = gained * np.log(loss + d) + lost * np.log(loss) + (both + neither) * np.log1p(-2 * loss - d)
        variance = count * (2 * loss[likelihood.argmax()] + d - d * d)
        assert abs(gained - lost - count * d) / math.sqrt(variance) == pytest.approx(1.959964, rel=1e-4)


def test_accuracies_turn_around_with_the_models():
    a_N, b_N = answers(12, 5, 60, 23)
    found, turned = paired_accuracy(a_N, b_N), paired_accuracy(b_N, a_N)
    assert found.estimate == pytest.approx(0.07)
    assert (turned.estimate, turned.low, turned.high, turned.p) == (-0.07, -found.high, -found.low, found.p)


def test_the_order_of_documents_does_not_matter():
    a_N, b_N = (np.array(model) for model in answers(12, 5, 60, 23))
    order_N = np.random.default_rng(0).permutation(100)
    assert paired_accuracy(a_N[order_N], b_N[order_N]) == paired_accuracy(a_N, b_N)


@pytest.mark.parametrize("count", [10, 1000])
def test_agreement_on_every_document_is_no_proof_of_equality(count: int):
    """Tango's limits are then ± z^2 / (N + z^2)."""
    found = paired_accuracy(*answers(0, 0, count))
    square = stats.norm.ppf(0.975) ** 2
    assert (found.estimate, found.p) == (0, 1)
    assert (found.low, found.high) == pytest.approx((-square / (count + square), square / (count + square)))


def test_all_documents_gained_reach_the_end_of_the_range():
    found = paired_accuracy(*answers(10, 0))
    assert (found.estimate, found.high) == (1, 1)
    assert 0.3 < found.low < 0.8


def test_many_documents_are_the_normal_approximation():
    gained, lost, count = 15_000, 10_000, 100_000
    found = paired_accuracy(*answers(gained, lost, count - gained - lost))
    half = 1.96 * math.sqrt((gained + lost) / count - 0.05**2) / math.sqrt(count)
    assert (found.low, found.high) == pytest.approx((0.05 - half, 0.05 + half), abs=2e-5)


@pytest.mark.parametrize("count,gain,loss", [(50, 0.1, 0.1), (200, 0.1, 0.05)])
def test_accuracies_are_covered(count: int, gain: float, loss: float):
    found = accuracies(count, gain, loss, 400, seed=1)
    assert 0.92 < found.covers < 0.98
    assert found.wrongly < 0.06


def test_answers_are_right_or_wrong():
    with pytest.raises(UserError, match=r"documents of b: got 0.5 at index 1; expected 1 .* 0 .*paired_difference"):
        paired_accuracy([0, 1], [0, 0.5])
    with pytest.raises(UserError, match="got 2 of a and 3 of b; expected pairs"):
        paired_accuracy([0, 1], [0, 1, 1])


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_three_seeds_by_hand():
    """71.4, 71.0, 70.6: s = 0.4, t = 4.3027."""
    found = over_seeds([71.4, 71.0, 70.6])
    assert (found.low, found.high) == pytest.approx((71 - 4.30265 * 0.4 / 3**0.5, 71 + 4.30265 * 0.4 / 3**0.5))
    assert found.units == 3


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_seeds_are_scipy_s_t_tests(confidence: float):
    rng = np.random.default_rng(0)
    a_S, b_S = rng.standard_normal(5), 1 + 3 * rng.standard_normal(5)
    expected = [
        (over_seeds(a_S, confidence), stats.ttest_1samp(a_S, 0)),
        (seeds_difference(a_S, b_S, True, confidence), stats.ttest_rel(b_S, a_S)),
    ]
    for found, test in expected:
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(confidence)))
        assert found.p == pytest.approx(test.pvalue)
        assert found.excludes_zero == (found.p < 1 - confidence)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_different_seeds_are_welch_s_formula(confidence: float):
    rng = np.random.default_rng(0)
    a_S, b_S = rng.standard_normal(5), 1 + 3 * rng.standard_normal(4)
    parts = [model_S.var(ddof=1) / len(model_S) for model_S in (a_S, b_S)]
    degrees = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, (5, 4), strict=True))
    error, mean = math.sqrt(sum(parts)), b_S.mean() - a_S.mean()
    half = stats.t.ppf((1 + confidence) / 2, degrees) * error
    found = seeds_difference(a_S, b_S, False, confidence)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(mean) / error, degrees))
    assert found.excludes_zero == (found.p < 1 - confidence)


def test_seeds_in_any_order():
    a_S, b_S = np.array([3.0, 1.0, 2.0]), np.array([2.0, 1.0, 5.0])
    found = seeds_difference(a_S, b_S, True)
    again = seeds_difference(a_S[[2, 0, 1]], b_S[[2, 0, 1]], True)
    assert (again.low, again.high, again.p) == pytest.approx((found.low, found.high, found.p))
    assert seeds_difference(a_S, b_S[::-1], True).p != pytest.approx(found.p)  # pairs are pairs
    assert seeds_difference(a_S, b_S[::-1], False).p == pytest.approx(seeds_difference(a_S, b_S, False).p)


@pytest.mark.parametrize("paired", [True, False])
def test_seeds_turn_around_with_the_methods(paired: bool):
    a_S, b_S = [3.0, 1.0, 2.0], [2.0, 1.0, 5.5]
    found, turned = seeds_difference(a_S, b_S, paired), seeds_difference(b_S, a_S, paired)
    assert (turned.estimate, turned.low, turned.high, turned.p) == (
        -found.estimate,
        -found.high,
        -found.low,
        pytest.approx(found.p),
    )


def test_units_are_pairs_or_seeds():
    assert seeds_difference([1, 2, 3], [2, 3, 5], True).units == 3
    assert seeds_difference([1, 2, 3], [2, 5], False).units == 5


@pytest.mark.parametrize("paired", [True, False])
def test_a_method_that_draws_nothing_is_certain(paired: bool):
    same = seeds_difference([0.1] * 3, [0.1] * 3, paired)
    assert (same.low, same.high, same.p) == (0, 0, 1)
    other = seeds_difference([0.25] * 3, [0.5] * 3, paired)
    assert (other.low, other.high, other.p) == (0.25, 0.25, 0)
    assert over_seeds([0.1] * 3).low == 0.1


def test_against_a_method_that_draws_nothing_only_the_other_s_seeds_count():
    b_S = [2.0, 1.0, 5.5]
    found, alone = seeds_difference([0.5] * 4, b_S, False), over_seeds(b_S)
    assert (found.low, found.high) == pytest.approx((alone.low - 0.5, alone.high - 0.5))


@pytest.mark.parametrize("count", [2, 5])
def test_seeds_are_covered(count: int):
    assert 0.93 < seeds(count, "normal", 2000, seed=1).covers < 0.97


def test_seeds_that_cannot_serve():
    with pytest.raises(UserError, match=r"seeds: got values of shape \(1,\); expected one row of at least 2"):
        over_seeds([70.9])
    with pytest.raises(UserError, match="seeds of b: got nan at index 0"):
        seeds_difference([1, 2], [math.nan, 2], False)
    with pytest.raises(UserError, match=r"got 2 of a and 3 of b; expected pairs.*or paired=False"):
        seeds_difference([1, 2], [1, 2, 3], True)


# --- many at once -----------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    """Sorted: 0.005 x 4, 0.01 x 3, 0.03 x 2, 0.04 x 1 — which may not lie below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_one_alone_and_stops_at_one():
    assert holm([0.03]) == [0.03]
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_holm_lies_between_no_adjustment_and_bonferroni_s():
    p_M = np.random.default_rng(0).random(20) ** 4
    adjusted_M = np.array(holm(p_M.tolist()))
    assert (p_M <= adjusted_M).all()
    assert (adjusted_M <= np.minimum(1, 20 * p_M) + 1e-15).all()
    assert adjusted_M[p_M.argmin()] == pytest.approx(20 * p_M.min())
    assert (np.diff(adjusted_M[p_M.argsort()]) >= 0).all()


def test_holm_keeps_the_error_of_a_family():
    p_RM = np.random.default_rng(0).random((2000, 10))
    assert np.mean([min(holm(p_M.tolist())) <= 0.05 for p_M in p_RM]) == pytest.approx(0.05, abs=0.015)
    assert np.mean(p_RM.min(1) <= 0.05) > 0.3


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_a_p_out_of_range(p: float):
    with pytest.raises(UserError, match=r"p-value 1: got .*; expected a number in \[0, 1\]"):
        holm([0.5, p])


# --- the verdict ------------------------------------------------------------------------------------------------------

BELOW = Interval(-0.2, -0.3, -0.1, 0.95, 0.01, 24)
ABOVE = Interval(0.2, 0.1, 0.3, 0.95, 0.01, 24)


def test_the_winner_is_on_the_better_side():
    assert (verdict(BELOW, "smaller"), verdict(ABOVE, "smaller")) == ("b", "a")
    assert (verdict(BELOW, "larger"), verdict(ABOVE, "larger")) == ("a", "b")


def test_no_winner_while_zero_is_possible_or_p_is_large():
    assert verdict(Interval(0.2, -0.1, 0.5, 0.95, 0.01, 24), "smaller") is None
    assert verdict(Interval(0.2, 0.1, 0.3, 0.95, 0.06, 24), "smaller") is None
    assert verdict(Interval(0.0, 0.0, 0.0, 0.95, 1.0, 24), "smaller") is None


def test_the_adjusted_p_decides():
    assert verdict(ABOVE, "smaller", holm([ABOVE.p] * 5)[0]) == "a"
    assert verdict(ABOVE, "smaller", holm([ABOVE.p] * 6)[0]) is None


@pytest.mark.parametrize("confidence,p", [(0.95, 0.05), (0.9, 0.1), (0.99, 0.01)])
def test_the_level_itself_is_significant(confidence: float, p: float):
    """1 - 0.9 is 0.09999999999999998."""
    assert verdict(Interval(0.2, 0.1, 0.3, confidence, p, 24), "smaller") == "a"
    assert verdict(Interval(0.2, 0.1, 0.3, confidence, p + 1e-9, 24), "smaller") is None

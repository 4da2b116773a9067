"""Intervals for the difference of two models on the windows of one text: identities, limits, and what they cover in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from experiments.coverage.cells import Series, windows
from sparsity.comparison import over_seeds, paired_difference
from sparsity.comparison.windows import cosines, resampled
from sparsity.core import UserError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def a_pair(count: int = 24, effect: float = 0.05, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    a_N = 3.5 + 0.4 * rng(seed).standard_normal(count)
    return a_N, a_N + effect + Series(0.3).draw(1, count, rng(seed + 1))[0]


# --- identities -------------------------------------------------------------------------------------------------------


def test_the_estimate_is_the_mean_difference_inside_its_interval():
    a_N, b_N = a_pair()
    found = paired_difference(a_N, b_N, rng())
    assert found.estimate == pytest.approx(b_N.mean() - a_N.mean(), abs=1e-12)
    assert found.low < found.estimate < found.high
    assert (found.confidence, found.units) == (0.95, 24)


def test_the_same_generator_gives_the_same_bits_and_another_does_not():
    pair = a_pair()
    assert paired_difference(*pair, rng(3)) == paired_difference(*pair, rng(3)) != paired_difference(*pair, rng(4))


def test_exchanging_the_models_turns_the_interval_around():
    a_N, b_N = a_pair()
    found, turned = paired_difference(a_N, b_N, rng()), paired_difference(b_N, a_N, rng())
    assert (turned.estimate, turned.low, turned.high) == (-found.estimate, -found.high, -found.low)
    assert turned.p == found.p


def test_scale_and_shift_go_through():
    a_N, b_N = a_pair()
    found = paired_difference(a_N, b_N, rng())
    scaled = paired_difference(8 * a_N, 8 * b_N, rng())
    assert (scaled.low, scaled.high, scaled.p) == (8 * found.low, 8 * found.high, found.p)
    shifted = paired_difference(a_N, b_N + 0.7, rng())
    assert (shifted.low, shifted.high) == pytest.approx((found.low + 0.7, found.high + 0.7), abs=1e-12)
    assert paired_difference(a_N + 5, b_N + 5, rng()).low == pytest.approx(found.low, abs=1e-12)


def test_only_differences_count():
    """The difficulty of the text, which both models share, has no effect."""
    a_N, b_N = a_pair()
    common_N = rng(7).standard_normal(24)
    found, moved = paired_difference(a_N, b_N, rng()), paired_difference(a_N + common_N, b_N + common_N, rng())
    assert (moved.low, moved.high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_identical_models_differ_by_nothing():
    a_N, _ = a_pair()
    found = paired_difference(a_N, a_N, rng())
    assert (found.low, found.estimate, found.high, found.p) == (0, 0, 0, 1)


def test_a_constant_difference_is_certain():
    found = paired_difference(np.zeros(24), np.full(24, 0.1), rng())
    assert (found.low, found.high, found.p) == (0.1, 0.1, 0)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("repeats,times", [(130, 300), (2000, 30)])
def test_interval_and_p_agree(confidence: float, repeats: int, times: int):
    """Over effects from none to plain, so that both answers occur; few resamples, so that many ratios lie next to the limit."""
    said = set()
    for seed in range(times):
        pair = a_pair(effect=0.1 * seed / times, seed=seed)
        found = paired_difference(*pair, rng(seed), confidence, repeats)
        assert found.excludes_zero == (found.p <= 1 - confidence + 1e-12)
        said.add(found.excludes_zero)
    assert said == {True, False}


def test_a_higher_confidence_is_a_longer_interval():
    pair = a_pair()
    lengths = [found.high - found.low for c in (0.5, 0.8, 0.95, 0.99) for found in [paired_difference(*pair, rng(), c)]]
    assert lengths == sorted(set(lengths))


def test_the_order_of_the_text_matters():
    """Sorted differences are a text with a drifting topic: the mean is much less certain."""
    a_N, b_N = a_pair()
    drifting = paired_difference(np.zeros(24), np.sort(b_N - a_N), rng())
    found = paired_difference(a_N, b_N, rng())
    assert drifting.high - drifting.low > 1.5 * (found.high - found.low)


# --- its parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count,slowest", [(2, 1), (24, 3), (200, 14)])
def test_cosines_are_orthonormal_and_see_no_constant(count: int, slowest: int):
    cosine_NB = cosines(count)
    np.testing.assert_allclose(cosine_NB.T @ cosine_NB, np.eye(slowest), atol=1e-12)
    np.testing.assert_allclose(cosine_NB.sum(0), 0, atol=1e-12)


def test_of_independent_values_the_error_has_student_s_distribution():
    """mean / error of normal values is exactly Student's, of as many degrees as cosines: no bootstrap is needed to see that."""
    values_RN = rng().standard_normal((4000, 24))
    error_R = np.sqrt(((values_RN @ cosines(24)) ** 2).mean(1) / 24)
    assert stats.kstest(values_RN.mean(1) / error_R, stats.t(3).cdf).pvalue > 0.01


def test_resamples_are_blocks_of_neighbours_in_a_ring():
    index_RN = resampled(np.arange(27.0), 500, rng())
    step_RKL = np.diff(index_RN.reshape(500, 9, 3), axis=2) % 27
    assert (step_RKL == 1).all()
    for place in (0, 1, 26):  # every place draws every window
        assert set(index_RN[:, place]) == set(range(27))


def test_resamples_are_cut_to_the_length_of_the_series():
    assert resampled(np.arange(200.0), 7, rng()).shape == (7, 200)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_many_independent_windows_are_student_s_interval():
    lengths = []
    for seed in range(20):
        b_N = rng(seed).standard_normal(2000)
        found, t = paired_difference(np.zeros(2000), b_N, rng(seed), repeats=400), over_seeds(b_N)
        lengths.append((found.high - found.low) / (t.high - t.low))
    assert np.mean(lengths) == pytest.approx(1, abs=0.06)


def test_two_windows_are_student_s_interval():
    a_N, b_N = np.array([1.0, 2.0]), np.array([1.25, 2.75])
    found, t = paired_difference(a_N, b_N, rng()), over_seeds(b_N - a_N)
    assert (found.low, found.high, found.p) == pytest.approx((t.low, t.high, t.p))


def test_one_window_that_differs_proves_nothing():
    b_N = np.zeros(24)
    b_N[5] = 1.0
    found = paired_difference(np.zeros(24), b_N, rng())
    assert -1 < found.low < 0 < found.high < 1
    assert found.p > 0.05


def test_a_plain_difference_has_the_smallest_p_that_the_resamples_allow():
    b_N = 1 + 1e-3 * rng().standard_normal(200)
    assert paired_difference(np.zeros(200), b_N, rng(), repeats=499).p == pytest.approx(1 / 500)


# --- coverage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("series", [Series(), Series(0.3), Series(0.3, distribution="skewed")])
def test_the_interval_covers(series: Series):
    """400 repeats: a standard deviation of 1.1 % for 95 %. Student's interval fails the same bound on correlated windows."""
    found, t = windows(series, 24, 0.03, 400, seed=0)
    assert 0.92 < found.covers < 0.98
    assert found.wrongly < 0.02
    assert (t.covers > 0.92) == (series.rho == 0)


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.03])
@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.parametrize("count", [24, 200])
def test_the_interval_covers_93_to_97_per_cent(count: int, rho: float, effect: float):
    found, _ = windows(Series(rho), count, effect, 2000, seed=100)
    assert 0.93 <= found.covers <= 0.97
    assert found.wrongly <= (0.07 if effect == 0 else 0.01)
    if count == 200 and effect:
        assert found.named > 0.9


def test_simulated_series_are_what_they_say():
    for series, second in (
        (Series(0.3), 0.09),
        (Series(0.3, decay=0.7), 0.21),
        (Series(0.5, distribution="skewed"), 0.25),
    ):
        drawn_RN = series.draw(400, 500, rng()) / 0.07
        assert drawn_RN.mean() == pytest.approx(0, abs=0.02)
        assert drawn_RN.var() == pytest.approx(1, abs=0.03)
        assert (drawn_RN[:, 1:] * drawn_RN[:, :-1]).mean() == pytest.approx(series.rho, abs=0.02)
        assert (drawn_RN[:, 2:] * drawn_RN[:, :-2]).mean() == pytest.approx(second, abs=0.02)
    assert stats.skew(Series(distribution="skewed").draw(400, 500, rng()), axis=None) == pytest.approx(1, abs=0.05)
    assert stats.kurtosis(Series(distribution="heavy").draw(400, 500, rng()), axis=None) > 2


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a,b,says",
    [
        ([1.0], [2.0], r"windows of a: got values of shape \(1,\); expected one row of at least 2.*measure more"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"shape \(1, 2\); expected one row"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "got 3 of a and 2 of b; expected pairs. Evaluate both models on the same text"),
        ([1.0, 2.0], [1.0, float("nan")], "windows of b: got nan at index 1; expected finite numbers. Leave"),
        ([float("inf"), 2.0], [1.0, 2.0], "windows of a: got inf at index 0; expected finite"),
    ],
)
def test_values_that_cannot_serve(a: list[float], b: list[float], says: str):
    with pytest.raises(UserError, match=says):
        paired_difference(a, b, rng())


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_out_of_range(confidence: float):
    with pytest.raises(UserError, match=f"confidence={confidence}: expected a number between 0 and 1. Choose 0.95"):
        paired_difference(*a_pair(), rng(), confidence)


def test_too_few_repeats_for_the_confidence():
    with pytest.raises(UserError, match=r"repeats=18: expected at least .* Choose repeats=2000"):
        paired_difference(*a_pair(), rng(), repeats=18)
    paired_difference(*a_pair(), rng(), repeats=20)

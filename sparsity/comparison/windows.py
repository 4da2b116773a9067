"""The mean of paired differences d_1 ... d_N of consecutive windows, which are correlated: a studentised block bootstrap.

The standard error comes from the B slowest cosines of the series, its equal-weighted cosine estimate (EWC; Lazarus, Lewis,
Stock and Watson, "HAR Inference: Recommendations for Practice", 2018):

    error^2 = (z_1^2 + ... + z_B^2) / (B N),   z_j = sum_t sqrt(2 / N) cos(pi j (t - 1/2) / N) d_t,   B = 0.4 N^(2/3).

A cosine is orthogonal to a constant, and a slow cosine varies little over neighbouring windows. So the estimate accounts for
correlated windows without a model of their correlation. For many windows, mean / error has Student's distribution with B degrees of
freedom. For few windows this is not accurate: the B cosines are not all slow, and the differences may be skewed. Therefore the
distribution is simulated. New series are built from blocks of ceil(N^(1/3)) consecutive windows, which wrap around at the end
(circular blocks: Politis and Romano, 1992), and the same ratio is computed for each, (mean* - mean) / error*, with the error of the
new series (Goetze and Kuensch, 1996; one formula for both errors: Goncalves and Vogelsang, "Block bootstrap HAC robust tests: the
sophistication of the naive bootstrap", 2011).

The interval is symmetric, mean ± max(q, t_B) error, with q the bootstrap's quantile of |ratio|; p is the larger of the two
p-values. So the interval is never shorter than Student's. experiments/coverage measures its coverage. O(repeats N B) time,
O(repeats N) memory.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from ..user_error import UserError
from .interval import Interval, Values, certain, check_confidence, pairs, student

EVEN = 1e-24  # an error^2 below this fraction of the values' variance is rounding


def cosines(count: int) -> Values:
    """The B slowest cosines (N, B) of a series with N = `count` values. They are orthonormal, and orthogonal to a constant."""
    slowest = max(1, round(0.4 * count ** (2 / 3)))
    time_N = (np.arange(count) + 0.5) / count
    cosine_NB: Values = math.sqrt(2 / count) * np.cos(math.pi * time_N[:, None] * np.arange(1, slowest + 1))
    return cosine_NB


def resampled(series_N: Values, repeats: int, rng: np.random.Generator) -> Values:
    """Series (repeats, N) built from random circular blocks of ceil(N^(1/3)) windows. Every window is equally likely everywhere."""
    count = len(series_N)
    length = math.ceil(count ** (1 / 3))
    block_NL = sliding_window_view(np.concatenate([series_N, series_N[: length - 1]]), length)
    start_RK = rng.integers(count, size=(repeats, -(-count // length)))
    return np.ascontiguousarray(block_NL)[start_RK].reshape(repeats, -1)[:, :count]


def paired_difference(
    a_N: npt.ArrayLike,
    b_N: npt.ArrayLike,
    rng: np.random.Generator,
    confidence: float = 0.95,
    repeats: int = 2000,
) -> Interval:
    """The interval of mean(b - a), for paired values (N,) in the order of the text.

    For mean NLLs of windows of equal length, the estimate is a difference in nats per token, and its exp the ratio of perplexities.
    The interval excludes zero if and only if p <= 1 - confidence. The smallest possible p is 1 / (repeats + 1). If all differences
    are equal, the interval is a point. The same state of `rng` gives the same bits.

    Raises `UserError` for fewer than 2 windows, different lengths, a NaN or an infinity, and too few `repeats` for the confidence.
    """
    check_confidence(confidence)
    if math.ceil(confidence * (repeats + 1)) > repeats:
        raise UserError(
            f"repeats={repeats}: expected at least {math.ceil(1 / (1 - confidence))} for a confidence of {confidence}. "
            f"Choose repeats=2000"
        )
    a_N, b_N = pairs(a_N, b_N, "windows")
    difference_N = b_N - a_N
    count, mean = len(difference_N), float(difference_N.mean())
    if np.ptp(difference_N) == 0:
        return certain(float(difference_N[0]), confidence, count)

    cosine_NB = cosines(count)
    centred_N = difference_N - mean
    error = math.sqrt(((centred_N @ cosine_NB) ** 2).mean() / count)
    normal = student(mean, error, cosine_NB.shape[1], confidence, count)

    centred_RN = resampled(centred_N, repeats, rng)
    square_R = ((centred_RN @ cosine_NB) ** 2).mean(axis=1) / count
    spread_R = square_R > EVEN * centred_N.var()  # a series of one repeated value has no error to divide by
    ratio_R = np.sort(np.abs(centred_RN.mean(axis=1)[spread_R]) / np.sqrt(square_R[spread_R]))
    rank = math.ceil(confidence * (len(ratio_R) + 1))
    if rank > len(ratio_R) or error == 0:  # nearly all differences are equal, so few new series have an error
        return normal
    half = max(float(ratio_R[rank - 1]) * error, normal.high - mean)
    beyond = len(ratio_R) - int(np.searchsorted(ratio_R, abs(mean) / error))
    p = max((1 + beyond) / (len(ratio_R) + 1), normal.p)
    return Interval(mean, mean - half, mean + half, confidence, p, count)

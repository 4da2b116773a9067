"""Runs that differ in their seed alone: the seeds, which draw the calibration text, are the units.

    mean ± t_{S-1} s / sqrt(S)                                                      one method, or the differences of two by seed
    mean(b) - mean(a) ± t_f e,   e^2 = s_a^2 / S_a + s_b^2 / S_b,                   two methods on seeds of their own (Welch, 1947)
    f = e^4 / ((s_a^2 / S_a)^2 / (S_a - 1) + (s_b^2 / S_b)^2 / (S_b - 1))

Such an interval speaks of other calibration texts and the same evaluation text, `paired_difference` of other evaluation texts.
With 2 or 3 seeds it is wide (t = 12.7 and 4.3), and rightly so.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..user_error import UserError
from .interval import Interval, Values, student, values


def over_seeds(values_S: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean over seeds. Equal values, as of a method that draws nothing, make the interval a point.

    Raises `UserError` for fewer than 2 seeds, a NaN or an infinity.
    """
    mean, error, count = mean_and_error(values(values_S, "seeds"))
    return student(mean, error, count - 1, confidence, count)


def mean_and_error(values_S: Values) -> tuple[float, float, int]:
    """Mean, its standard error, and the number of values; of equal values exactly that value and zero."""
    if np.ptp(values_S) == 0:
        return float(values_S[0]), 0.0, len(values_S)
    return float(values_S.mean()), float(values_S.std(ddof=1)) / math.sqrt(len(values_S)), len(values_S)


def seeds_difference(a_S: npt.ArrayLike, b_S: npt.ArrayLike, paired: bool, confidence: float = 0.95) -> Interval:
    """mean(b) - mean(a). `paired`: on the same seeds, in the same order; then `units` are the pairs, else all seeds.

    Raises `UserError` for fewer than 2 seeds of either, a NaN or an infinity, and different numbers of paired seeds.
    """
    given_a_S, given_b_S = values(a_S, "seeds of a"), values(b_S, "seeds of b")
    if paired:
        if len(given_a_S) != len(given_b_S):
            raise UserError(
                f"paired seeds: got {len(given_a_S)} of a and {len(given_b_S)} of b; expected pairs. "
                f"Give the runs of common seeds, or paired=False"
            )
        return over_seeds(given_b_S - given_a_S, confidence)
    (a, error_a, count_a), (b, error_b, count_b) = mean_and_error(given_a_S), mean_and_error(given_b_S)
    error = math.hypot(error_a, error_b)
    # shares of the squared error: the formula above, divided by e^4, so that tiny errors do not underflow
    shares = [(part / error) ** 2 for part in (error_a, error_b)] if error else [1.0, 0.0]
    degrees = 1 / (shares[0] ** 2 / (count_a - 1) + shares[1] ** 2 / (count_b - 1))
    return student(b - a, error, degrees, confidence, count_a + count_b)

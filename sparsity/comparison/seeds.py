"""Intervals over runs that differ only in their seed. The units are the seeds, which draw the calibration text.

    mean ± t_{S-1} s / sqrt(S)                                        one method, or the differences of two methods on equal seeds
    mean(b) - mean(a) ± t_f e,   e^2 = s_a^2 / S_a + s_b^2 / S_b,     two methods on different seeds (Welch, 1947)
    f = e^4 / ((s_a^2 / S_a)^2 / (S_a - 1) + (s_b^2 / S_b)^2 / (S_b - 1))

Such an interval holds for other calibration texts and the same evaluation text; that of `paired_difference` for other evaluation
texts. With 2 or 3 seeds it is wide (t = 12.7 and 4.3), because so few seeds say little about the spread.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
from scipy import stats

from ..user_error import UserError
from .interval import Interval, certain, check_confidence, student, values


def over_seeds(values_S: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """The interval of the mean over seeds (S,). If all values are equal, as for a method without randomness, it is a point.

    Raises `UserError` for fewer than 2 seeds, a NaN or an infinity.
    """
    check_confidence(confidence)
    given_S = values(values_S, "seeds")
    count = len(given_S)
    if np.ptp(given_S) == 0:
        return certain(float(given_S[0]), confidence, count)
    return student(float(given_S.mean()), float(given_S.std(ddof=1)) / math.sqrt(count), count - 1, confidence, count)


def seeds_difference(a_S: npt.ArrayLike, b_S: npt.ArrayLike, paired: bool, confidence: float = 0.95) -> Interval:
    """The interval of mean(b) - mean(a) for the seeds (S,) of two methods.

    `paired`: both lists have the same seeds in the same order; `units` is then the number of pairs, otherwise of all seeds.
    Raises `UserError` for fewer than 2 seeds in a list, a NaN or an infinity, and paired lists of different lengths.
    """
    check_confidence(confidence)
    given_a_S, given_b_S = values(a_S, "seeds of a"), values(b_S, "seeds of b")
    if paired:
        if len(given_a_S) != len(given_b_S):
            raise UserError(
                f"paired seeds: got {len(given_a_S)} of a and {len(given_b_S)} of b; expected pairs. "
                f"Give the runs of common seeds, or paired=False"
            )
        return over_seeds(given_b_S - given_a_S, confidence)
    count = len(given_a_S) + len(given_b_S)
    if np.ptp(given_a_S) == np.ptp(given_b_S) == 0:
        return certain(float(given_b_S[0] - given_a_S[0]), confidence, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns if one method's values are all equal
        welch = stats.ttest_ind(given_b_S, given_a_S, equal_var=False)
    low, high = map(float, welch.confidence_interval(confidence))
    return Interval(float(given_b_S.mean() - given_a_S.mean()), low, high, confidence, float(welch.pvalue), count)

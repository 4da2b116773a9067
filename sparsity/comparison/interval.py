"""The interval of a difference, the checks of its inputs, and Student's interval

estimate ± t * se,   t the (1 + confidence) / 2 quantile of Student's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from ..user_error import UserError

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, `low` <= `estimate` <= `high`, in the unit of the values."""

    estimate: float
    low: float
    high: float
    confidence: float  # in (0, 1): the share of such intervals that contain the true value
    p: float  # in [0, 1]: the two-sided p-value of "the true value is zero"
    units: int  # number of windows, documents or seeds

    @property
    def excludes_zero(self) -> bool:
        """True if zero lies outside [low, high]."""
        return not self.low <= 0 <= self.high


def values(given: npt.ArrayLike, what: str, at_least: int = 2) -> Values:
    """The values as one-dimensional float64. Raises `UserError` if there are too few, or one is NaN or infinite."""
    array_N = np.asarray(given, dtype=np.float64)
    if array_N.ndim != 1 or len(array_N) < at_least:
        raise UserError(
            f"{what}: got values of shape {array_N.shape}; expected one row of at least {at_least}. "
            f"The error of a single value cannot be estimated: measure more"
        )
    if not np.isfinite(array_N).all():
        first = int(np.flatnonzero(~np.isfinite(array_N))[0])
        raise UserError(
            f"{what}: got {array_N[first]} at index {first}; expected finite numbers. Leave the broken model out, and look into it"
        )
    return array_N


def pairs(a: npt.ArrayLike, b: npt.ArrayLike, what: str) -> tuple[Values, Values]:
    """Both arrays as `values` returns them. Raises `UserError` if their lengths differ."""
    a_N, b_N = values(a, f"{what} of a"), values(b, f"{what} of b")
    if len(a_N) != len(b_N):
        raise UserError(
            f"{what}: got {len(a_N)} of a and {len(b_N)} of b; expected pairs. Evaluate both models on the same text, in its order"
        )
    return a_N, b_N


def check_confidence(confidence: float) -> None:
    """Raise `UserError` unless the confidence is between 0 and 1."""
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence}: expected a number between 0 and 1. Choose 0.95")


def certain(estimate: float, confidence: float, units: int) -> Interval:
    """The interval of values that are all equal: a point. p is 1 if the estimate is zero, otherwise 0."""
    return Interval(estimate, estimate, estimate, confidence, 1.0 if estimate == 0 else 0.0, units)


def student(estimate: float, error: float, degrees: float, confidence: float, units: int) -> Interval:
    """Student's interval. `error`: the standard error of the estimate; `degrees`: its degrees of freedom."""
    check_confidence(confidence)
    if error == 0:
        return certain(estimate, confidence, units)
    half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * error
    p = 2 * float(stats.t.sf(abs(estimate) / error, degrees))
    return Interval(estimate, estimate - half, estimate + half, confidence, p, units)

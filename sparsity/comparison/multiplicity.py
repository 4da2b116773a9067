"""Several comparisons at once, and the rule for naming a winner.

If m differences are all zero and each is tested at 5 %, about 0.05 m false alarms are expected. Holm's adjustment (1979) of the
sorted p-values,

    adjusted_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),

keeps the probability of even one false alarm below the level, however the tests depend on one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..user_error import UserError
from .interval import Interval


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in [0, 1], in the given order. Raises `UserError` for a p outside [0, 1]."""
    for index, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise UserError(f"p-value {index}: got {p}; expected a number in [0, 1]. Give the p of each interval")
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(
    interval: Interval, better: Literal["smaller", "larger"], adjusted_p: float | None = None
) -> Literal["a", "b"] | None:
    """The winner "a" or "b" if the interval of b - a excludes zero and p <= 1 - confidence; otherwise None.

    `better`: "smaller" if smaller values are better (NLL, perplexity), "larger" if larger ones are (accuracy). `adjusted_p`: the p
    after `holm` over all comparisons that are shown together; None: the interval's own p, for a single comparison.
    """
    p = interval.p if adjusted_p is None else adjusted_p
    # Rounded, because 1 - 0.95 is a little above 0.05, and 1 - 0.9 a little below 0.1.
    if not interval.excludes_zero or p > round(1 - interval.confidence, 12):
        return None
    return "b" if (interval.estimate < 0) == (better == "smaller") else "a"

"""The difference of two models' accuracies on the same N documents. The documents are taken to be independent.

Only documents on which the models disagree matter: `gained` of them are right in b and wrong in a, `lost` the reverse.

p: McNemar's exact test. Without a difference, `gained` is binomial: gained + lost tosses of a fair coin.

Interval: Tango's (Statistics in Medicine 17, 1998, 891-908), all d that the score test of "the difference is d" accepts,

    |gained - lost - N d| <= z sqrt(N (2 q(d) + d (1 - d))),

with q(d) the maximum-likelihood probability of a loss given d, the larger root of

    2 N q^2 + ((2 N - gained + lost) d - gained - lost) q - lost d (1 - d) = 0.

Fagerland, Lydersen and Laake (Statistics in Medicine 33, 2014, 2850-2875) recommend it for its coverage; experiments/coverage
measures it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from ..user_error import UserError
from .interval import Interval, Values, check_confidence, pairs


def paired_accuracy(a_N: npt.ArrayLike, b_N: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """The interval of mean(b - a), in [-1, 1], for answers that are right (1) or wrong (0).

    The exact p is larger than the p of the score test behind the interval, so if the interval just excludes zero, p may still
    exceed 1 - confidence. If the models agree on every document, p is 1, but the interval has a width: other documents may differ.

    Raises `UserError` for fewer than 2 documents, different lengths, and values other than 0 and 1.
    """
    check_confidence(confidence)
    a_N, b_N = pairs(a_N, b_N, "documents")
    for answer_N, model in ((a_N, "a"), (b_N, "b")):
        check_answers(answer_N, model)
    gained, lost = int((b_N > a_N).sum()), int((b_N < a_N).sum())
    z = float(stats.norm.ppf((1 + confidence) / 2))
    p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    low, high = lower_limit(gained, lost, len(a_N), z), -lower_limit(lost, gained, len(a_N), z)
    return Interval((gained - lost) / len(a_N), low, high, confidence, p, len(a_N))


def check_answers(answer_N: Values, model: str) -> None:
    """Raise `UserError` with the first answer that is neither 0 nor 1."""
    strange_N = np.flatnonzero(~np.isin(answer_N, (0, 1)))
    if len(strange_N):
        raise UserError(
            f"documents of {model}: got {answer_N[strange_N[0]]} at index {strange_N[0]}; expected 1 for a right answer, 0 for a "
            f"wrong one. Compare other measures with paired_difference"
        )


def lower_limit(gained: int, lost: int, count: int, z: float) -> float:
    """Tango's lower limit. The upper one is minus the lower one with a and b exchanged."""
    estimate = (gained - lost) / count

    def excess(d: float) -> float:
        """A function of d that is positive at d = -1 (zero if b lost every document) and negative just below the estimate."""
        linear = (2 * count - gained + lost) * d - gained - lost
        loss = (math.sqrt(max(linear**2 + 8 * count * lost * d * (1 - d), 0)) - linear) / (4 * count)
        return gained - lost - count * d - z * math.sqrt(max(count * (2 * loss + d * (1 - d)), 0))

    # The bracket ends just below the estimate: the variance is zero at an estimate of 1, and of 0 without a disagreement.
    return float(optimize.brentq(excess, -1.0, estimate - 1e-9, xtol=1e-12))

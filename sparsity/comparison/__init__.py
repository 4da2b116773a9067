"""The comparison of two models: intervals, p-values and verdicts on which one is better. Pure functions of arrays.

N windows or documents   S seeds. Every difference is b - a.
"""

from .accuracies import paired_accuracy
from .interval import Interval
from .multiplicity import holm, verdict
from .seeds import over_seeds, seeds_difference
from .windows import paired_difference

__all__ = [
    "Interval",
    "holm",
    "over_seeds",
    "paired_accuracy",
    "paired_difference",
    "seeds_difference",
    "verdict",
]

"""Which of two models is better, and how sure that is: intervals, p-values and verdicts. Pure functions on arrays.

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

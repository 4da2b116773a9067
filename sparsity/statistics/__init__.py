"""Left folds over activations, one a file. A statistic is a value: equal statistics share one state."""

from .gram import Gram, GramState
from .squared_norm import SquaredNorm, SquaredNormState

__all__ = ["Gram", "GramState", "SquaredNorm", "SquaredNormState"]

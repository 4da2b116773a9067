"""Left folds over activations, one a file. A statistic is a value: equal statistics share one state."""

from .gram import Gram, GramState
from .moments import Moments, MomentsState
from .squared_norm import SquaredNorm, SquaredNormState

__all__ = ["Gram", "GramState", "Moments", "MomentsState", "SquaredNorm", "SquaredNormState"]

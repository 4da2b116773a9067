"""Left folds over activations, one a file. A statistic is a value: equal statistics share one state."""

from .activity import Activity, ActivityState
from .gram import Gram, GramState
from .grouped_activity import GroupedActivity, GroupedActivityState
from .moments import Moments, MomentsState
from .squared_norm import SquaredNorm, SquaredNormState

__all__ = [
    "Activity",
    "ActivityState",
    "Gram",
    "GramState",
    "GroupedActivity",
    "GroupedActivityState",
    "Moments",
    "MomentsState",
    "SquaredNorm",
    "SquaredNormState",
]

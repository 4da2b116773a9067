"""The statistics of the calibration text: left folds over activations, one per file. Equal statistics share one state."""

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

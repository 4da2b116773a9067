"""Who watches a run. The run's files are the truth; a tracker is told the same numbers as they are written."""

from .none import NoTracker
from .protocol import About, Outcome, Session, Tracker
from .trackio_runs import Trackio
from .watch import Watch
from .weights_and_biases import WeightsAndBiases

__all__ = ["About", "NoTracker", "Outcome", "Session", "Tracker", "Trackio", "Watch", "WeightsAndBiases"]

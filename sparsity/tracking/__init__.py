"""The trackers (trackio, W&B): they get the numbers that a run writes into its files. The files are the reference."""

from .none import NoTracker
from .protocol import About, Outcome, Session, Tracker
from .trackio_runs import Trackio
from .watch import Watch
from .weights_and_biases import WeightsAndBiases

__all__ = ["About", "NoTracker", "Outcome", "Session", "Tracker", "Trackio", "Watch", "WeightsAndBiases"]

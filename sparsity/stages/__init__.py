"""The stages of a run, a file each. What a run does, counts, predicts and resumes follows from their list (`order.py`)."""

from .order import CHANGING, PREPARING, STAGES

__all__ = ["CHANGING", "PREPARING", "STAGES"]

"""The stages of a run, one per file. Their list (`order.py`) decides what a run does, counts, predicts and resumes."""

from .order import CHANGING, PREPARING, STAGES

__all__ = ["CHANGING", "PREPARING", "STAGES"]

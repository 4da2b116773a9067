"""The recoveries: they tune all surviving weights of the model together, after every block was pruned."""

from .base import Recovered, Recovery, Taught
from .distillation import Distillation
from .none import NoRecovery

__all__ = ["Distillation", "NoRecovery", "Recovered", "Recovery", "Taught"]

"""Recoveries: what becomes of all survivors of a model together, once every block is pruned."""

from .base import Recovered, Recovery, Taught
from .distillation import Distillation
from .none import NoRecovery

__all__ = ["Distillation", "NoRecovery", "Recovered", "Recovery", "Taught"]

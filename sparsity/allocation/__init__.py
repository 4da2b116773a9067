"""How much each layer gives up, so that the whole gives up what was asked: one allocation a file."""

from .base import Allocation, Allotted, Shapes
from .owl import Owl
from .sensitivity import Sensitivity
from .uniform import Uniform

__all__ = ["Allocation", "Allotted", "Owl", "Sensitivity", "Shapes", "Uniform"]

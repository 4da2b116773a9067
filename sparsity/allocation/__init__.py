"""The allocations, one per file: the sparsity of each layer, such that the whole model has the requested sparsity."""

from .base import Allocation, Allotted, Shapes
from .owl import Owl
from .sensitivity import Sensitivity
from .uniform import Uniform

__all__ = ["Allocation", "Allotted", "Owl", "Sensitivity", "Shapes", "Uniform"]

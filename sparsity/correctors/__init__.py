"""The correctors, one per file: they compute new values for the survivors of a layer. Each works with every method."""

from .greedy import Greedy
from .hessian import Hessian
from .none import NoCorrection
from .optimal import Optimal

__all__ = ["Greedy", "Hessian", "NoCorrection", "Optimal"]

"""What the survivors become, given the mask, one corrector a file. It sees the dense layer, so any goes with any method."""

from .greedy import Greedy
from .hessian import Hessian
from .none import NoCorrection
from .optimal import Optimal

__all__ = ["Greedy", "Hessian", "NoCorrection", "Optimal"]

"""What the survivors become, given the mask, one corrector a file. It sees the dense layer, so any goes with any method."""

from .none import NoCorrection
from .optimal import Optimal

__all__ = ["NoCorrection", "Optimal"]

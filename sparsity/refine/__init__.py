"""The refinements: they tune all survivors of a block together, after each of its layers was corrected alone."""

from .base import Refinement
from .block import BlockTuning
from .none import NoRefinement

__all__ = ["BlockTuning", "NoRefinement", "Refinement"]

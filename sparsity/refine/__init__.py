"""Refinements: what becomes of a block's survivors together, after each layer was corrected for itself."""

from .base import Refinement
from .block import BlockTuning
from .none import NoRefinement

__all__ = ["BlockTuning", "NoRefinement", "Refinement"]

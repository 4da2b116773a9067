"""What pruning cost, one evaluator a file. Each sees the dense model before and the pruned one after."""

from .cost import Cost
from .divergence import Divergence
from .generation import Generation
from .perplexity import Perplexity

__all__ = ["Cost", "Divergence", "Generation", "Perplexity"]

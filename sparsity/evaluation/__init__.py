"""What pruning cost, one evaluator a file. Each sees the dense model before and the pruned one after."""

from .cost import Cost
from .divergence import Divergence
from .generation import Generation
from .lm_eval import LMEval
from .perplexity import Perplexity
from .walked import Walked

__all__ = ["Cost", "Divergence", "Generation", "LMEval", "Perplexity", "Walked"]

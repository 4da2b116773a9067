"""What pruning cost, one evaluator a file. Each sees the dense model before and the pruned one after."""

from .lm_eval import LMEval
from .perplexity import Perplexity

__all__ = ["LMEval", "Perplexity"]

"""The evaluators, one per file. Each one measures the dense model before pruning and the pruned model afterwards."""

from .cost import Cost
from .divergence import Divergence
from .generation import Generation
from .lm_eval import LMEval
from .perplexity import Perplexity
from .walked import Walked

__all__ = ["Cost", "Divergence", "Generation", "LMEval", "Perplexity", "Walked"]

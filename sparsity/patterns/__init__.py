"""The patterns: which masks are allowed. A pattern turns scores into the allowed mask that keeps the largest scores."""

from .n_of_m import NofM
from .unstructured import Unstructured

__all__ = ["NofM", "Unstructured"]

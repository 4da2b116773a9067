"""Which masks are allowed. A pattern turns scores into the allowed mask with the largest ones."""

from .n_of_m import NofM
from .unstructured import Unstructured

__all__ = ["NofM", "Unstructured"]

"""The cache between runs, in the user's cache folder: statistics of the text, and evaluations of dense models."""

from ..record.digest import content_hash
from .keep import Cache
from .statistics import recalled

__all__ = ["Cache", "content_hash", "recalled"]

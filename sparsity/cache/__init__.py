"""What is worth keeping between runs, in the user's cache folder. Exported here: all that a run needs of it."""

from ..record.digest import content_hash
from .keep import Cache
from .statistics import recalled

__all__ = ["Cache", "content_hash", "recalled"]

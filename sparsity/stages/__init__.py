"""The stages of a run, a file each, in their order. What a run does, counts, predicts and resumes follows from this list."""

from typing import Any

from .allocating import Allocate
from .counting import Count
from .drawing import Draw
from .evaluating import Evaluate
from .loading import Load
from .pruning import Prune
from .recovering import Recover
from .saving import Save
from .stage import Stage

# The first two bring the model and the text; all others may look at the dense model before any of them changes it.
PREPARING: tuple[Stage[Any], ...] = (Load(), Draw())
CHANGING: tuple[Stage[Any], ...] = (Allocate(), Prune(), Recover(), Count(), Evaluate(), Save())
STAGES = (*PREPARING, *CHANGING)

__all__ = ["CHANGING", "PREPARING", "STAGES"]

"""The stages of a run, in their order."""

from __future__ import annotations

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

"""The list of a run's stages, in their order."""

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

# PREPARING brings the model and the text. All stages of CHANGING may read the dense model before the first of them changes it.
PREPARING: tuple[Stage[Any], ...] = (Load(), Draw())
CHANGING: tuple[Stage[Any], ...] = (Allocate(), Prune(), Recover(), Count(), Evaluate(), Save())
STAGES = (*PREPARING, *CHANGING)

"""The sources of models, and the view of a Hugging Face model as blocks and layers. Only this room knows architectures."""

from .blocks import Block, Linear
from .decoder import Call, Decoder
from .hub import Hub
from .local import Local
from .smollm2 import SmolLM2
from .source import Itself, Loaded, ModelSource
from .tiny import Tiny
from .writing import written

__all__ = [
    "Block",
    "Call",
    "Decoder",
    "Hub",
    "Itself",
    "Linear",
    "Loaded",
    "Local",
    "ModelSource",
    "SmolLM2",
    "Tiny",
    "written",
]

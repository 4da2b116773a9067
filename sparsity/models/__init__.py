"""Where models come from, and how a Hugging Face model becomes blocks and layers: the only room that knows architectures."""

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

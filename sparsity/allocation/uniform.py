"""Uniform: every layer gets the same pattern, and so the same sparsity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core import Pattern, Site
from ..models import Decoder
from ..stream import Stream
from .base import Allotted, Shapes


@dataclass(frozen=True)
class Uniform:
    """The allocation that gives every layer the same sparsity."""

    streams: ClassVar[bool] = True

    @property
    def measurement(self) -> None:
        return None

    def check(self, pattern: Pattern) -> None:
        """Accepts every pattern."""

    def needs(self, site: Site) -> tuple[()]:
        return ()

    def measure(self, decoder: Decoder, stream: Stream, ids_BT: Tensor, shapes: Shapes) -> Mapping[str, Tensor]:
        return {}

    def allot(self, pattern: Pattern, shapes: Shapes, measured: Mapping[str, Tensor]) -> Allotted:
        return Allotted(dict.fromkeys(shapes, pattern), [])

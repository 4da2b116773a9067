"""Magnitude: score_oi = |W_oi|. It needs no calibration text, so the model never runs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core import Criterion, Layer, Scope, Stats
from ..ranges import checked


@dataclass(frozen=True)
@checked
class Magnitude(Criterion):
    """The criterion |W|."""

    scope: Scope

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        return layer.weight_OI.abs()

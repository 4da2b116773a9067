"""Wanda (arXiv 2306.11695, eq. 1): score_oi = |W_oi| * sqrt(g_i / N), g_i the sum over N tokens of x_i^2, compared within a row.

Up to the factor N, the score is the square root of the loss of removing this weight alone: L = W_oi^2 g_i.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core import Criterion, Layer, Scope, Site, Stats, Tap
from ..linalg import wide
from ..ranges import checked
from ..statistics import SquaredNorm, SquaredNormState

INPUT = Tap(SquaredNorm())


@dataclass(frozen=True)
@checked
class Wanda(Criterion):
    """The criterion Wanda: |W| times the norm of the input."""

    scope: Scope

    def needs(self, site: Site) -> tuple[Tap[SquaredNormState]]:
        return (INPUT,)

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        total_I, tokens = stats[INPUT]
        dtype = wide(layer.weight_OI.dtype)
        return layer.weight_OI.abs().to(dtype) * (total_I / tokens).sqrt().to(dtype)

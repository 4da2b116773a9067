"""RIA (Plug-and-Play, ICLR 2024): the relative importance of a weight in its row and its column, times the norm of its input.

    score_oi = (|W_oi| / sum_k |W_ok| + |W_oi| / sum_p |W_pi|) * sqrt(g_i)^power,      g_i the sum over tokens of x_i^2

A weight is scored by its share of the weights of its output and of its input, so no row or column loses all its weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Criterion, Layer, Scope, Site, Stats, Tap
from ..linalg import wide
from ..ranges import Exponent, checked
from ..statistics import SquaredNorm, SquaredNormState

INPUT = Tap(SquaredNorm())


@dataclass(frozen=True)
@checked
class RIA(Criterion):
    """The criterion RIA: relative importance times the norm of the input."""

    scope: Scope
    power: Exponent  # of the input's norm; the paper's 0.5

    def needs(self, site: Site) -> tuple[Tap[SquaredNormState]]:
        return (INPUT,)

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        dtype = wide(layer.weight_OI.dtype)
        size_OI = layer.weight_OI.abs().to(dtype)
        least = torch.finfo(dtype).tiny  # a row or column of zeros has no shares: its weights score 0
        share_OI = size_OI / size_OI.sum(1, keepdim=True).clamp(min=least)
        share_OI += size_OI / size_OI.sum(0, keepdim=True).clamp(min=least)
        return share_OI * (stats[INPUT].total_I ** (self.power / 2)).to(dtype)

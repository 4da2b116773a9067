"""Dense: no weight is removed. It is the baseline of comparisons, and the route for layers that must not be pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core import Layer, Pattern, Pruned, Site, Stats


@dataclass(frozen=True)
class Dense:
    """The method that keeps every weight."""

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        """Accepts every layer."""

    def needs(self, site: Site) -> tuple[()]:
        return ()

    def asked(self, site: Site, pattern: Pattern) -> float:
        return 0.0

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        return Pruned(layer.weight_OI, torch.ones_like(layer.weight_OI, dtype=torch.bool))

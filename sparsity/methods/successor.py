"""Methods that begin where another method, their `base`, ends: they exchange survivors for removed weights, row by row.

Every row keeps its count, and every group of an n-of-m pattern its own, so what the base was asked for is found. Counts that are
neither a row's nor the layer's, such as those of SparseGPT's blocks, are not kept. The base may be any method, a `Route` too, and a
successor may stand in a route.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from ..core import Layer, Method, Pattern, Pruned, Site, Stats, Tap, distinct


class Successor(ABC):
    """Write `reads` and `exchange`. Where the base leaves a layer alone, so does its successor."""

    base: Method

    @abstractmethod
    def reads(self, site: Site) -> Collection[Tap[Any]]:
        """What it must know besides what its base must."""

    @abstractmethod
    def exchange(self, layer: Layer, pattern: Pattern, pruned: Pruned, stats: Stats) -> Pruned:
        """What becomes of `pruned`, the base's work. Writes into none of its tensors."""

    @final
    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        self.base.check(sites, pattern)

    @final
    def needs(self, site: Site) -> Collection[Tap[Any]]:
        return distinct([*self.base.needs(site), *self.reads(site)])

    @final
    def asked(self, site: Site, pattern: Pattern) -> float:
        return self.base.asked(site, pattern)

    @final
    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        pruned = self.base.prune(layer, pattern, stats)
        if self.asked(layer.site, pattern) == 0:
            return pruned
        better = self.exchange(layer, pattern, pruned, stats)
        return replace(
            pruned, weight_OI=better.weight_OI, keep_OI=better.keep_OI, facts={**pruned.facts, **better.facts}
        )


def told(swaps_O: Tensor, settled_O: Tensor, before_O: Tensor, after_O: Tensor) -> dict[str, float]:
    """Facts: swaps a row, the share of rows that would make no more, and what is left of the loss."""
    left = after_O.sum() / before_O.sum().clamp(min=torch.finfo(before_O.dtype).tiny)
    return {"swaps": float(swaps_O.mean()), "settled": float(settled_O.mean()), "loss_left": float(left)}

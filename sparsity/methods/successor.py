"""Base class of methods that improve the mask of another method, their `base`, by swapping weights within rows.

A swap keeps the number of survivors in every row, and in every group of an n-of-m pattern, so the sparsity stays that of the
base. Counts over other sets of weights, such as those of SparseGPT's blocks, may change. The base may be any method, also a
`Route`, and a successor may be used in a route.
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
    """A `Method` that begins with the result of `base`. Subclasses write `reads` and `exchange`.

    A layer that the base leaves dense stays dense.
    """

    base: Method

    @abstractmethod
    def reads(self, site: Site) -> Collection[Tap[Any]]:
        """The statistics that `exchange` reads, besides those of the base."""

    @abstractmethod
    def exchange(self, layer: Layer, pattern: Pattern, pruned: Pruned, stats: Stats) -> Pruned:
        """The result after the swaps. `pruned`: the result of the base, whose tensors must not be changed."""

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


def swap_facts(swaps_O: Tensor, settled_O: Tensor, before_O: Tensor, after_O: Tensor) -> dict[str, float]:
    """The facts of a successor: swaps per row, the share of rows that are settled, and the loss after over the loss before."""
    left = after_O.sum() / before_O.sum().clamp(min=torch.finfo(before_O.dtype).tiny)
    return {"swaps": float(swaps_O.mean()), "settled": float(settled_O.mean()), "loss_left": float(left)}

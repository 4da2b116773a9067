"""Measured sensitivity: more weights are removed from groups of layers where that changes the model's predictions least.

Two things are measured on the dense model: KL_g, the divergence of the predictions in nats per token when Wanda prunes only group
g at the sparsity `level` (probe.py); and the growth of a group's loss with its sparsity, estimated by Wanda's scores:

    e_l(s) = sum of the floor(s I) least squared scores of every row / sum of all,    score_oi^2 = W_oi^2 g_i / N
    f_g(s) = sum of e_l(s) over the group's layers;  convex, because within a row the smallest scores are removed first

A small divergence is close to quadratic in the change of the weights, and so is f_g, so that the cost of any share is modelled by
one probe, c_g(s) = KL_g f_g(s) / f_g(level). To be minimised, with the group's n_g weights:

    sum_g c_g(s_g)   s.t.   sum_g n_g s_g = sparsity * sum_g n_g,   |s_g - sparsity| <= lam

which is convex (balance.py says how it is solved). Groups of equal costs have equal shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..core import Layer, Pattern, Site, Stats, Tap, UserError
from ..linalg import double
from ..methods.wanda import INPUT, Wanda
from ..models import Decoder
from ..patterns import Unstructured
from ..ranges import Count, Range, checked
from ..statistics import SquaredNormState
from ..stream import Stream, collect
from .balance import least_cost
from .base import Allotted, Distance, Shapes, Unit, check_differs
from .groups import allotted, grouped, weights
from .probe import divergences

LEVELS = 101  # 0, 1 %, ..., 100 %
ROWS = 1024  # rows that are sorted at once, with their indices: 12 bytes per weight


@dataclass(frozen=True)
@checked
class Sensitivity:
    """The allocation by measured sensitivity: the least predicted divergence of the whole model."""

    streams: ClassVar[bool] = False  # a probe runs all blocks behind it

    unit: Unit
    level: Annotated[float, Range(above=0, below=1, such=0.6)]
    sequences: Count
    lam: Distance

    @property
    def measurement(self) -> str:
        return f"divergence at {self.level} by wanda of each {self.unit} alone, {self.sequences} sequences"

    def check(self, pattern: Pattern) -> None:
        check_differs(self, pattern)

    def needs(self, site: Site) -> tuple[Tap[SquaredNormState]]:
        return (INPUT,)

    def measure(self, decoder: Decoder, stream: Stream, ids_BT: Tensor, shapes: Shapes) -> Mapping[str, Tensor]:
        """{"divergence": (G,) KL_g, "loss": (G, L) f_g at L = LEVELS levels}. Memory: a vector of statistics per layer."""
        if self.sequences > len(ids_BT):
            raise UserError(
                f"sequences={self.sequences}: expected at most the {len(ids_BT)} of the calibration text. Use fewer, or "
                f"calibration.num_sequences={self.sequences}"
            )
        stats: dict[Site, Stats] = {}
        loss: dict[Site, Tensor] = {}
        for block, its in collect(stream, {site: self.needs(site) for site in shapes}):
            with block.on(stream.device):
                loss |= {site: _loss(block.layer(site), known) for site, known in its.items()}
            stats |= its
        groups = [*grouped(shapes, self.unit).values()]
        loss_GL = torch.stack([torch.stack([loss[site] for site in group]).sum(0) for group in groups])

        def pruned(layer: Layer) -> Tensor:
            return Wanda("row").prune(layer, Unstructured(self.level), stats[layer.site]).weight_OI

        kl_G = divergences(decoder, ids_BT[: self.sequences], groups, pruned, stream.device)
        return {"divergence": kl_G, "loss": loss_GL}

    def allot(self, pattern: Pattern, shapes: Shapes, measured: Mapping[str, Tensor]) -> Allotted:
        groups, kl_G, loss_GL = grouped(shapes, self.unit), measured["divergence"], measured["loss"]
        size_G = torch.tensor([weights(shapes, group) for group in groups.values()], dtype=torch.float64)
        at = self.level * (LEVELS - 1)
        probed_G = loss_GL[:, int(at)].lerp(loss_GL[:, int(at) + 1], at - int(at))
        cost_GL = loss_GL * (kl_G / probed_G.clamp(min=torch.finfo(kl_G.dtype).tiny))[:, None]
        share_G = least_cost(cost_GL, size_G, pattern.sparsity, self.lam)
        return allotted(pattern, shapes, self.unit, share_G, {"divergence": kl_G})


def _loss(layer: Layer, stats: Stats) -> Tensor:
    """The loss e_l of one layer at L = LEVELS levels, float64 (L,) on the CPU."""
    score_OI = Wanda("row").score(layer, stats)
    inputs = score_OI.shape[1]
    sorted_I = torch.zeros(inputs, dtype=torch.float64)
    for score_RI in score_OI.split(ROWS):
        sorted_I += double(score_RI.sort(1).values.square().sum(0)).cpu()
    grown_I = torch.cat([sorted_I.new_zeros(1), sorted_I.cumsum(0)]) / sorted_I.sum().clamp(min=torch.finfo().tiny)
    at_L = torch.linspace(0, inputs, LEVELS, dtype=torch.float64)
    below_L = at_L.long().clamp(max=inputs - 1)
    return grown_I[below_L].lerp(grown_I[below_L + 1], at_L - below_L)

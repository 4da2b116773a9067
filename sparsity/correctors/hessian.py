"""Hessian: least squares over one set S of input channels, the same for all rows: min_D L(W + D) with D zero outside S.

    D' = -(G_SS + damp mean(g) I)^-1 P_S',   P_S = (W - W0) G[:, S],   g = diag G, with the mean over all inputs
Then D is clamped to |D_oi| <= max_change |W0_oi|, set to zero at removed weights, and scaled by the line search of `channels`. To
solve for all of S first and clamp afterwards is not optimal for these survivors, and could raise the loss without the line
search; the corrector `optimal` solves each row for its own survivors.

With all channels in S and no bound, D = W0 - W up to damping. This changes nothing for a method that only scores; after SparseGPT
it undoes the compensation as far as the line search allows. One factor serves all rows: O(O I |S| + |S|^3 + O |S|^2) per layer,
in float64. An input that was always zero gets a diagonal entry of 1 in G_SS.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Corrected, Layer, Pruned, Site, Stats
from ..linalg import Factor, damped, double, living, retry
from ..ranges import Ridge, Share, checked
from .channels import Change, seen, share, take
from .selection import GRAM, Salience, Select, Selective


@dataclass(frozen=True)
@checked
class Hessian(Selective):
    """The corrector by least squares over one set of input channels for all rows."""

    select: Select
    fraction: Share  # of the channels with a survivor
    salience: Salience
    max_change: Change | None  # of |W0|, from the given weight and up to the rounding of its dtype; None: no bound
    damp: Ridge  # a fraction of mean(diag G); a failed Cholesky takes ten times more and reports it

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """The slopes of all rows, and the solve over the chosen channels."""
        return 1.0 if self.select == "all" else 0.5 + self.fraction

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Corrected:
        chosen = self.selection.choose(stats, pruned.keep_OI)
        gram_II, channel_S = stats[GRAM].gram_II, chosen.channel_S
        gram_SI = double(gram_II.index_select(0, channel_S))
        change_OI = double(pruned.weight_OI) - double(layer.weight_OI)
        at = seen(layer, pruned, channel_S, gram_SI, gram_SI @ change_OI.T)
        factor_SS, damp = factor(at.gram_SS, double(gram_II.diagonal()), self.damp)
        step_SO = -torch.cholesky_solve(at.slope_SO, factor_SS)
        clamped = 0.0
        if self.max_change is not None:
            bound_SO = self.max_change * at.dense_SO.abs()
            clamped = share((step_SO.abs() > bound_SO) & at.keep_SO, at.keep_SO)
            step_SO = step_SO.clamp(-bound_SO, bound_SO)
        corrected = take(layer, pruned, gram_II, channel_S, at, step_SO)
        facts = {**chosen.facts, **corrected.facts, "clamped": clamped, "damp": damp}
        return Corrected(corrected.weight_OI, facts)


def factor(gram_SS: Tensor, g_I: Tensor, damp: float) -> Factor:
    """The lower Cholesky factor of G_SS + damp * mean(g) * I."""
    living_SS, mean = living(gram_SS), g_I.mean()
    return retry(lambda used: torch.linalg.cholesky_ex(damped(living_SS, used, mean)), damp)

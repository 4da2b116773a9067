"""Least squares over one set S of input channels, the same for all rows:  min_D L(W + D), D on S, up to damping and bounds.

    D' = -(G_SS + damp mean(g) I)^-1 P_S',   P_S = (W - W0) G[:, S],   g = diag G, the mean over all inputs
then |D_oi| <= max_change |W0_oi|, survivors only, and the line search of `channels`. Solving for all of S and then clamping and
dropping is no optimum, not of these survivors either, and could raise the loss by itself: `optimal` solves every row for its own.

With S = all channels and no box, D = W0 - W up to damping: nothing for the survivors of a method that only scores, and after
SparseGPT the undoing of its compensation as far as the line search lets it. One factor for all rows:
O(O I |S| + |S|^3 + O |S|^2) a layer, in float64. An input that was always zero stands alone in G_SS.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Corrected, Layer, Pruned, Stats
from ..linalg import Factor, damped, double, living, retry
from ..ranges import Ridge, Share, checked
from .channels import Change, seen, share, take
from .selection import GRAM, Salience, Select, Selective


@dataclass(frozen=True)
@checked
class Hessian(Selective):
    select: Select
    fraction: Share  # of the channels with a survivor
    salience: Salience
    max_change: Change | None  # of |W0|, from the given weight and up to the rounding of its dtype; None: no bound
    damp: Ridge  # a fraction of mean(diag G); a failed Cholesky takes ten times more and reports it

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
    living_SS = living(gram_SS)
    return retry(lambda used: torch.linalg.cholesky_ex(damped(living_SS, used, g_I)), damp)

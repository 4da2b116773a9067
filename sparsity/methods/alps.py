"""ALPS (arXiv 2406.07831, algorithm 1): the mask has the full sparsity from the start, and rho rises until the mask is stable.

It takes the steps of `splitting` from V = W0. After every `every` steps, the mask is compared with that of the last comparison.
With k the number of survivors in the layer and s the number of mask entries that have changed (a swap counts twice),

    rho <- 1.3 rho if s >= k / 10,    1.2 rho if s >= k / 200,    1.1 rho if s >= 1;    stop if s = 0

and U, which is the paper's V over rho, is divided by the same factor. A small rho lets W, and with it the mask, follow the
correlations of the inputs; a larger rho holds W closer to an allowed Z. (The sum of 1 / rho is finite, so it converges.)

Returns Z in the layer's units. Z is allowed by the pattern; at the fixed point W = Z, with a stable mask, it holds the survivors'
best values. The paper refits them by conjugate gradients: here the corrector `optimal` does that. Each rho needs its own K; q, k
and v share only B. Facts: `iterations`; `rho`, the last one; `changed`, s / k at the end, 0 unless `iterations` ran out; `gap`,
||W - Z|| / ||W0||.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core import Layer, Pattern, Pruned, Scope, Site, Stats, Tap
from ..linalg import dead
from ..ranges import Ridge, Steps, checked
from ..statistics import Gram, GramState
from .splitting import Metric, Penalty, advance, resolvent, units

GRAM = Tap(Gram())


def growth(changed: float) -> float:
    """The factor by which rho grows when the fraction `changed` = s / k of the mask has changed."""
    return 1.3 if changed >= 0.1 else 1.2 if changed >= 0.005 else 1.1


@dataclass(frozen=True)
@checked
class ALPS:
    """The method ALPS: operator splitting with a rising penalty rho."""

    scope: Scope
    iterations: Steps  # at most, each a product of the size of the layer
    every: Steps  # between two changes of rho
    metric: Metric
    damp: Ridge  # a fraction of the squared norm of each input; a failed Cholesky takes ten times more
    rho: Penalty  # how strongly W and Z are drawn together at first; the metric makes it relative

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        """Accepts every layer."""

    def needs(self, site: Site) -> tuple[Tap[GramState]]:
        return (GRAM,)

    def asked(self, site: Site, pattern: Pattern) -> float:
        return pattern.sparsity

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """One a step, and an inverse for every rise of rho: at most, since the mask usually settles earlier."""
        return self.iterations * (1 + inputs / (outputs * self.every))

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        matrix_II, ridge_I, scale_I, damp = stats.derived(GRAM, units, self.metric, self.damp)
        dtype = scale_I.dtype
        dense_OI = layer.weight_OI.to(dtype) * scale_I
        v_OI, rho = dense_OI.clone(), self.rho
        compared_OI = keep_OI = pattern.keep(v_OI.abs(), self.scope)
        resolvent_II, damp = resolvent(matrix_II, ridge_I, damp, rho)
        survivors, changed, step = max(keep_OI.sum().item(), 1), 0.0, 0
        while True:
            off_OI = (~keep_OI).to(dtype)
            weight_OI = advance(v_OI, dense_OI, off_OI, resolvent_II)
            keep_OI, step = pattern.keep(v_OI.abs(), self.scope), step + 1
            if step % self.every == 0 or step == self.iterations:
                changed = (keep_OI != compared_OI).sum().item() / survivors
                compared_OI = keep_OI
                if changed == 0 or step == self.iterations:
                    break
                rise = growth(changed)
                rho *= rise
                resolvent_II, damp = resolvent(matrix_II, ridge_I, damp, rho)
                v_OI.addcmul_(v_OI, (~keep_OI).to(dtype), value=1 / rise - 1)
        z_OI = v_OI.masked_fill(~keep_OI, 0)
        facts = {
            "damp": damp,
            "dead_inputs": float(dead(stats[GRAM].gram_II).sum()),
            "iterations": float(step),
            "rho": rho,
            "changed": changed,
            "gap": float((weight_OI - z_OI).norm() / dense_OI.norm().clamp(min=torch.finfo(dtype).tiny)),
        }
        return Pruned((z_OI / scale_I).to(layer.weight_OI.dtype), keep_OI, facts)

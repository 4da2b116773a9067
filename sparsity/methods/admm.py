"""ADMM with a gradual mask (arXiv 2401.02938, algorithm 1 and section 3.3): the sparsity rises while the weights converge.

It takes the steps of `splitting` from V = W0, with a fixed rho. In step t the mask keeps the largest |V| and makes the share
1 - (1 - t / gradual)^3 of the pattern's removals, the cubic schedule of Zhu and Gupta (arXiv 1710.01878); from t = `gradual` on it
makes all of them. In the last `held` steps the mask is fixed, and the weights converge to the best values for it. The paper fixes
the mask as soon as it has the full sparsity. That is too early for n-of-m, where a group loses its last weight in that very step.
With `gradual` 1, a mask that is fixed afterwards and the metric `norm`, the mask is Wanda's.

Returns Z in the layer's units. Cost per layer: one K and `iterations` products; q, k and v share K, as do gate and up. Facts:
`settling`, the share of the survivors that the last change of the mask added; `gap`, ||W - Z|| / ||W0|| at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import Layer, Pattern, Pruned, Scope, Site, Stats, Tap
from ..linalg import dead
from ..ranges import Refused, Ridge, Steps, StepsOrZero, checked
from ..statistics import Gram, GramState
from .splitting import Metric, Penalty, advance, resolvent, rows_together, units

GRAM = Tap(Gram())


class System(NamedTuple):
    """The parts of `advance` that layers with equal inputs share: K, the damping and the scale."""

    resolvent_II: Tensor
    damp: float
    scale_I: Tensor


@dataclass(frozen=True)
@checked
class ADMM:
    """The method ADMM with a gradual mask."""

    scope: Scope
    iterations: Steps  # each a product of the size of the layer
    gradual: Steps  # steps until the full sparsity
    held: StepsOrZero  # last steps in which the mask stays
    metric: Metric
    damp: Ridge  # a fraction of the squared norm of each input; a failed Cholesky takes ten times more
    rho: Penalty  # how strongly W and Z are drawn together; the metric makes it relative

    def __post_init__(self) -> None:
        if self.gradual + self.held > self.iterations:
            values = {"gradual": self.gradual, "held": self.held, "iterations": self.iterations}
            raise Refused(values, "gradual and held together to be at most iterations")

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        """Accepts every layer."""

    def needs(self, site: Site) -> tuple[Tap[GramState]]:
        return (GRAM,)

    def asked(self, site: Site, pattern: Pattern) -> float:
        return pattern.sparsity

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """One a step, and the inverses of the resolvent and of the metric."""
        return self.iterations + 2 * inputs / outputs

    def system(self, state: GramState) -> System:
        matrix_II, ridge_I, scale_I, damp = units(state, self.metric, self.damp)
        return System(*resolvent(matrix_II, ridge_I, damp, self.rho), scale_I)

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        resolvent_II, damp, scale_I = stats.derived(GRAM, self.system)
        dtype = scale_I.dtype
        rising = [pattern.partly(1 - (1 - t / self.gradual) ** 3) for t in range(1, self.gradual + 1)]
        patterns = [*rising, *[pattern] * (self.iterations - self.held - self.gradual)]
        height = rows_together(layer, pattern, self.scope)

        def settle(panel_PI: Tensor) -> tuple[Tensor, ...]:
            return self._settle(panel_PI.to(dtype) * scale_I, resolvent_II, patterns, stats, len(layer.weight_OI))

        z_OI, keep_OI, new_O, gap_O, dense_O = stats.by_rows(settle, height, layer.weight_OI)
        facts = {
            "damp": damp,
            "dead_inputs": float(dead(stats[GRAM].gram_II).sum()),
            "settling": float(new_O.sum() / keep_OI.sum().clamp(min=1)),
            "gap": float(gap_O.norm() / dense_O.norm().clamp(min=torch.finfo(dtype).tiny)),
        }
        return Pruned((z_OI / scale_I).to(layer.weight_OI.dtype), keep_OI, facts)

    def _settle(
        self, dense_PI: Tensor, resolvent_II: Tensor, patterns: Sequence[Pattern], stats: Stats, rows: int
    ) -> tuple[Tensor, ...]:
        """Z and its mask; per row, the number of survivors that the last change of the mask added, ||W - Z|| and ||W0||."""
        v_PI, keep_PI = dense_PI.clone(), torch.ones_like(dense_PI, dtype=torch.bool)
        for step in range(self.iterations):
            if step < len(patterns):
                before_PI, keep_PI = keep_PI, stats.keep(patterns[step], v_PI.abs(), self.scope, rows)
                off_PI = (~keep_PI).to(v_PI.dtype)
            weight_PI = advance(v_PI, dense_PI, off_PI, resolvent_II)
        z_PI = v_PI.masked_fill_(~keep_PI, 0)
        gap_P, dense_P = (torch.linalg.vector_norm(part_PI, dim=1) for part_PI in (weight_PI - z_PI, dense_PI))
        return z_PI, keep_PI, (keep_PI & ~before_PI).sum(1), gap_P, dense_P

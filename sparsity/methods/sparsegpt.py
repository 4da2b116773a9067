"""SparseGPT (arXiv 2301.00774): one pass of the optimal brain surgeon over the inputs, from left to right, block by block.

H = G + damp * mean(diag G) * I and H^-1 = U'U, U upper triangular. U_jj^2 is [(H_{j:,j:})^-1]_11, so w_j^2 / U_jj^2 is the least
rise in loss that removing w_j costs once everything left of j is frozen: the score, taken on the current weights. An unstructured
mask is the lowest fraction of a whole block (O x 128 weights), so its counts are exact per block; an n-of-m mask is chosen when the
group's first input is reached. An input that was zero on all text loses its weights: found > asked, as `more` says; the fact
`dead_inputs` counts them.
O(I^3 + O I^2) a layer; q, k and v share one factor, as gate and up do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core import Layer, Pattern, Pruned, Scope, Site, Stats, Tap
from ..linalg import Factor, dead, escalate, living, obs_sweep
from ..ranges import Count, Ridge, checked
from ..statistics import Gram, GramState

GRAM = Tap(Gram())


@dataclass(frozen=True)
@checked
class SparseGPT:
    """The method SparseGPT."""

    scope: Scope  # within a block of inputs: all its weights ("layer", the paper), or each row apart
    damp: Ridge  # a fraction of mean(diag G); a failed Cholesky takes ten times more and reports it
    width: Count  # inputs in a block, rounded down to whole groups of an n-of-m pattern

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        """Accepts every layer."""

    def needs(self, site: Site) -> tuple[Tap[GramState]]:
        return (GRAM,)

    def asked(self, site: Site, pattern: Pattern) -> float:
        return pattern.sparsity

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """Half a product for the sweep, and a factorisation with a triangular inverse."""
        return 0.5 + inputs / (3 * outputs)

    def factor(self, state: GramState) -> Factor:
        """The inverse factor of the damped Gram, in which an input that was always zero stands alone."""
        return escalate(living(state.gram_II), self.damp)

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        dead_I = dead(stats[GRAM].gram_II)
        factor_II, damp = stats.derived(GRAM, self.factor)
        weight_OI = layer.weight_OI.to(factor_II.dtype).masked_fill(dead_I, 0)
        group = pattern.group
        width = max(self.width // group, 1) * group if group else self.width
        rows = len(weight_OI)

        def sweep(weight_PI: Tensor) -> tuple[Tensor, Tensor]:
            return obs_sweep(
                weight_PI, factor_II, lambda s_PM: stats.keep(pattern, s_PM, self.scope, rows), width, group
            )

        swept_OI, keep_OI = stats.by_rows(sweep, rows, weight_OI)
        gone, blocks = int(dead_I.sum()), -(-len(dead_I) // width)
        facts = {"damp": damp, "dead_inputs": float(gone)}
        fewer = blocks * (rows if self.scope == "row" else 1)  # of each block, or its rows, the remainder stays
        return Pruned(swept_OI.to(layer.weight_OI.dtype), keep_OI & ~dead_I, facts, fewer, gone * rows)

"""SparseGPT (arXiv 2301.00774): one pass of the optimal brain surgeon over the inputs, from left to right, block by block.

H = G + damp * mean(diag G) * I and H^-1 = U'U with U upper triangular. U_jj^2 is [(H_{j:,j:})^-1]_11, so w_j^2 / U_jj^2 is the
smallest rise of the loss when w_j is removed and all weights left of j are fixed. This is the score, computed from the current
weights. An unstructured mask removes the lowest scores of a whole block (O x 128 weights), so its counts are exact per block; an
n-of-m mask is chosen when the first input of the group is reached. Inputs that were zero on all text lose their weights, so the
sparsity found can exceed the one asked; their number is reported as `dead_inputs`. O(I^3 + O I^2) per layer; q, k and v share one
factor, as do gate and up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core import Layer, Pattern, Pruned, Scope, Site, Stats, Tap
from ..linalg import Factor, escalate, obs_sweep
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

    def factor(self, state: GramState) -> Factor:
        """The inverse factor of the damped Gram matrix. An input that was always zero gets a diagonal entry of 1."""
        gram_II = state.gram_II.clone()
        diagonal_I = gram_II.diagonal()
        diagonal_I.masked_fill_(diagonal_I == 0, 1)
        return escalate(gram_II, self.damp)

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        dead_I = stats[GRAM].gram_II.diagonal() == 0
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
        dead, blocks = int(dead_I.sum()), -(-len(dead_I) // width)
        facts = {"damp": damp, "dead_inputs": float(dead)}
        fewer = blocks * (
            rows if self.scope == "row" else 1
        )  # floor rounds down in every block, or in each of its rows
        return Pruned(swept_OI.to(layer.weight_OI.dtype), keep_OI & ~dead_I, facts, fewer, dead * rows)

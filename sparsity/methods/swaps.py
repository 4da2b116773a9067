"""1-swaps (SparseSwaps): a removed weight replaces a survivor of its row as long as that lowers the layer loss.

With e = w - w0 of one row and c = e G, changing weights i by d_i changes the row's loss L = e G e' by exactly

    dL = sum_i 2 d_i c_i + sum_ij H_ij,      H_ij = d_i G_ij d_j

Pruning a survivor u changes it by -w_u. Reviving a removed weight p changes it by w_p: its value from the base, or its dense
value if the base removed it. One swap costs dL = v_u + v_p + 2 H_up with v_i = 2 d_i c_i + H_ii, and raises every v_i by 2 (H_iu
+ H_ip). The base may have changed its survivors, as SparseGPT does; they keep these values.

Trying all pairs would cost O(I^2) per row and swap. Instead, a sweep computes c of all rows in one product. Then each row picks
`candidates` revivals and as many prunings with the smallest v; with n-of-m, where both are in one group, it picks the groups with
the smallest sum of the two. Among these it makes the best swap, and goes on while a swap lowers L, changing each weight at most
once and using H only (methods/exchange.py). The next sweep computes c again, so rounding errors do not add up. A row is settled
when a sweep makes no swap in it: it is then optimal for single swaps among its candidates. L falls with every swap, so this ends.
O(O I^2) per sweep and O(candidates^2) per swap; panels of rows bound the memory.

The swaps do not take a later correction of the survivors into account; `pursuit` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..core import Layer, Method, Pattern, Pruned, Site, Stats, Tap
from ..linalg import row_dot
from ..ranges import Count, StepsOrZero, checked
from ..statistics import Gram, GramState
from .exchange import exchange
from .successor import Successor, swap_facts

GRAM = Tap(Gram())
PANEL = 2**22  # elements of H in a panel


@dataclass(frozen=True)
@checked
class Swaps(Successor):
    """The method of 1-swaps: single swaps as long as they lower the layer loss."""

    base: Method
    sweeps: StepsOrZero  # at most
    candidates: Count  # a row's revivals, and as many prunings, in a sweep

    def reads(self, site: Site) -> tuple[Tap[GramState]]:
        return (GRAM,)

    def exchange(self, layer: Layer, pattern: Pattern, pruned: Pruned, stats: Stats) -> Pruned:
        dtype = torch.promote_types(stats[GRAM].gram_II.dtype, layer.weight_OI.dtype)
        gram_II, dense_OI = stats[GRAM].gram_II.to(dtype), layer.weight_OI.to(dtype)
        survivor_OI = pruned.weight_OI.where(pruned.keep_OI, layer.weight_OI)  # the value of each weight if it survives
        height = max(PANEL // (2 * max(self.candidates, pattern.group or 1)) ** 2, 1)
        compute = partial(self._rows, gram_II, pattern.group)
        keep_OI, *rows = stats.by_rows(compute, height, dense_OI, survivor_OI.to(dtype), pruned.keep_OI)
        return Pruned(survivor_OI.masked_fill(~keep_OI, 0), keep_OI, swap_facts(*rows))

    def _rows(
        self, gram_II: Tensor, group: int | None, dense_PI: Tensor, survivor_PI: Tensor, keep_PI: Tensor
    ) -> tuple[Tensor, ...]:
        """The mask and, per row, the arguments of `swap_facts`."""
        keep_PI = keep_PI.clone()
        loss_P, gain_P, swaps_P, settled_P = gram_II.new_zeros(4, len(keep_PI))
        row_R = torch.arange(len(keep_PI), device=keep_PI.device)  # not settled yet
        for sweep in range(self.sweeps):
            keep_RI, survivor_RI = keep_PI[row_R], survivor_PI[row_R]
            change_RI = survivor_RI.where(keep_RI, 0).sub_(dense_PI[row_R])
            slope_RI = change_RI @ gram_II
            loss_R = row_dot(change_RI, slope_RI)
            loss_P = loss_R if sweep == 0 else loss_P
            move_RI = survivor_RI.where(~keep_RI, -survivor_RI)
            gain_R, swaps_R = exchange(gram_II, move_RI, slope_RI, keep_RI, loss_R, self.candidates, group)
            keep_PI[row_R] = keep_RI
            gain_P[row_R] += gain_R
            swaps_P[row_R] += swaps_R
            settled_P[row_R] = (swaps_R == 0).to(settled_P)
            if not swaps_R.any():
                break
            row_R = row_R[swaps_R > 0]
        return keep_PI, swaps_P, settled_P, loss_P, loss_P - gain_P

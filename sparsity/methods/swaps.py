"""1-swaps (SparseSwaps): a removed weight takes the place of a survivor of its row as long as that lowers the layer loss.

With e = w - w0 of one row and c = e G, moving weights i by d_i changes the row's loss L = e G e' by exactly

    dL = sum_i 2 d_i c_i + sum_ij H_ij,      H_ij = d_i G_ij d_j

A survivor that is pruned moves by -w_u, a removed weight that is revived by w_p: back to what the base made of it, to its dense
value where the base removed it. One swap costs dL = v_u + v_p + 2 H_up with v_i = 2 d_i c_i + H_ii, and raises every v_i by
2 (H_iu + H_ip). So the base may have changed its survivors, as SparseGPT does; their values stay.

All pairs would be O(I^2) a row and swap. Here a sweep is one product for c of all rows, after which each row picks the
`candidates` revivals and as many prunings of least v; of n-of-m, whose pairs lie within a group, the members of the groups with the
least two. On these it makes the best swap while one lowers L, every weight moving once, by H alone (methods/exchange.py). c is
computed anew in the next sweep, so rounding does not add up. A row is settled when a sweep finds it no swap: a 1-swap optimum over
its candidates, over all pairs where they are as many as its inputs. L falls with every swap, so this ends. O(O I^2) a sweep and
O(candidates^2) a swap; panels of rows bound the memory.

What becomes of the survivors afterwards is not foreseen: `pursuit` does that.
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
from .successor import Successor, told

GRAM = Tap(Gram())
PANEL = 2**22  # numbers in H


@dataclass(frozen=True)
@checked
class Swaps(Successor):
    base: Method
    sweeps: StepsOrZero  # at most
    candidates: Count  # a row's revivals, and as many prunings, in a sweep

    def reads(self, site: Site) -> tuple[Tap[GramState]]:
        return (GRAM,)

    def exchange(self, layer: Layer, pattern: Pattern, pruned: Pruned, stats: Stats) -> Pruned:
        dtype = torch.promote_types(stats[GRAM].gram_II.dtype, layer.weight_OI.dtype)
        gram_II, dense_OI = stats[GRAM].gram_II.to(dtype), layer.weight_OI.to(dtype)
        survivor_OI = pruned.weight_OI.where(pruned.keep_OI, layer.weight_OI)  # what each weight is where it survives
        height = max(PANEL // (2 * max(self.candidates, pattern.group or 1)) ** 2, 1)
        compute = partial(self._rows, gram_II, pattern.group)
        keep_OI, *rows = stats.by_rows(compute, height, dense_OI, survivor_OI.to(dtype), pruned.keep_OI)
        return Pruned(survivor_OI.masked_fill(~keep_OI, 0), keep_OI, told(*rows))

    def _rows(
        self, gram_II: Tensor, group: int | None, dense_PI: Tensor, survivor_PI: Tensor, keep_PI: Tensor
    ) -> tuple[Tensor, ...]:
        """What to keep, and of each row what `told` is told."""
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

"""Pursuit: swaps survivors for removed weights by the change of the loss after all survivors are refitted.

The loss of a row with a set S of survivors is min (w - w0) H (w - w0)' over all w that are 0 outside S, with H = G + lam I. The
corrector `optimal` reaches this loss. At its minimum, with r = (w0 - w) H and all other survivors refitted,

    pruning u raises it by w_u^2 / [H_SS^-1]_uu,        reviving p lowers it by r_p^2 / (H_pp - H_pS H_SS^-1 H_Sp)

If H, scaled, is close to I + U U', the denominators of all weights cost one or two products (`leverages` in quadratic.py). These
costs and gains rank the candidates. In the first round a row makes many swaps at once, a `fraction` of all that are possible, the
largest gains with the least costs; with n-of-m, one swap per group. Then `steps` of conjugate gradients from the current values
refit the row, and its loss is computed. If the loss is lower, the row keeps the swaps. If not, it undoes them and next tries half
as many; a row that cannot make a single swap is settled. So no row's loss rises. A round costs about `steps` + 3 products of the
rows that are not settled.

Subspace pursuit (arXiv 0803.0811) also makes many swaps at once and refits; it ranks by r and w alone, without denominators.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..core import Layer, Method, Pattern, Pruned, Site, Stats, Tap, solving
from ..linalg import row_dot
from ..quadratic import Spiked, conjugate_gradients, leverages, rows_of_panel, spiked, strong_directions, unit_diagonal
from ..ranges import Ridge, Share, Steps, StepsOrZero, checked
from ..statistics import Gram, GramState
from .exchange import trade
from .successor import Successor, swap_facts

GRAM = Tap(Gram())


@dataclass(frozen=True)
@checked
class Pursuit(Successor):
    """The method Pursuit: swaps that lower the loss after all survivors are refitted."""

    base: Method
    rounds: StepsOrZero  # at most
    steps: Steps  # of conjugate gradients in a round; twice as many before the first
    fraction: Share  # of the pairs that a row could swap
    damp: Ridge  # a fraction of mean(diag G)

    def reads(self, site: Site) -> tuple[Tap[GramState]]:
        return (GRAM,)

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """The products of the base, of the first refit, and of a refit in each round, with two more for residuals."""
        return solving(self.base, site, outputs, inputs) + 2 * self.steps + 2 + self.rounds * (self.steps + 2)

    def system(self, state: GramState) -> Spiked:
        return spiked(unit_diagonal(state.gram_II, self.damp), strong_directions(len(state.gram_II)))

    def exchange(self, layer: Layer, pattern: Pattern, pruned: Pruned, stats: Stats) -> Pruned:
        system = stats.derived(GRAM, self.system)
        dtype = torch.promote_types(system.matrix_II.dtype, layer.weight_OI.dtype)
        system = Spiked(*(part.to(dtype) for part in system))
        scaled = [weight_OI / system.scale_I for weight_OI in (layer.weight_OI, pruned.weight_OI)]
        compute, height = partial(self._rows, system, pattern.group), rows_of_panel(layer.weight_OI.shape[1])
        x_OI, keep_OI, *rows = stats.by_rows(compute, height, *scaled, pruned.keep_OI)
        return Pruned(x_OI.mul_(system.scale_I).to(layer.weight_OI), keep_OI, swap_facts(*rows))

    def _rows(
        self, system: Spiked, group: int | None, dense_PI: Tensor, given_PI: Tensor, keep_PI: Tensor
    ) -> tuple[Tensor, ...]:
        """The weights and the mask; per row, the arguments of `swap_facts`, where the loss before is that of the first refit."""
        keep_PI = keep_PI.clone()
        x_PI, residual_PI, loss_P = refit(system, dense_PI, given_PI, keep_PI, 2 * self.steps)
        before_P, swaps_P, settled_P = loss_P.clone(), torch.zeros_like(loss_P), torch.zeros_like(loss_P)
        count_P = (self.fraction * torch.minimum(keep_PI.sum(1), (~keep_PI).sum(1))).long().clamp(min=1)
        row_R = torch.arange(len(keep_PI), device=keep_PI.device)  # not settled yet
        for _ in range(self.rounds):
            if not len(row_R):
                break
            keep_RI, x_RI, count_R = keep_PI[row_R], x_PI[row_R], count_P[row_R]
            leverage_RI = leverages(keep_RI, system.low_IK, system.pairs_IJ)
            cost_RI = x_RI.square().div_((1 - leverage_RI).clamp_(min=torch.finfo(x_RI.dtype).eps))
            gain_RI = residual_PI[row_R].square_().div_(1 + leverage_RI)
            trial_RI, tried_R = trade(gain_RI, cost_RI, keep_RI, count_R, group)
            if not tried_R.any():
                settled_P[row_R] = 1
                break
            x_RI, residual_RI, loss_R = refit(system, dense_PI[row_R], x_RI * trial_RI, trial_RI, self.steps)
            better_R = (loss_R < loss_P[row_R]) & (tried_R > 0)  # a refit without a swap does not count
            won_R = row_R[better_R]
            for whole_P, part_R in zip(
                (keep_PI, x_PI, residual_PI, loss_P), (trial_RI, x_RI, residual_RI, loss_R), strict=True
            ):
                whole_P[won_R] = part_R[better_R]
            swaps_P[won_R] += tried_R[better_R]
            count_R = count_R.where(better_R, tried_R // 2)
            settled_P[row_R] = (count_R == 0).to(settled_P)
            count_P[row_R] = count_R
            row_R = row_R[count_R > 0]
        return x_PI, keep_PI, swaps_P, settled_P, before_P, loss_P


def refit(
    system: Spiked, dense_RI: Tensor, given_RI: Tensor, keep_RI: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The refitted survivors (R, I), the residual of all inputs (R, I), and the loss of each row (R,). Weights are scaled."""
    residual_RI = (dense_RI - given_RI) @ system.matrix_II
    x_RI = conjugate_gradients(
        system.matrix_II, residual_RI, keep_RI, steps, system.low_IK, system.pairs_IJ
    ).change_OI.add_(given_RI)
    change_RI = dense_RI - x_RI
    residual_RI = change_RI @ system.matrix_II
    return x_RI, residual_RI, row_dot(change_RI, residual_RI)

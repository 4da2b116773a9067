"""DSnoT (arXiv 2310.08915, algorithm 1): swaps weights until the mean output of a row equals that of the dense row.

With mu_j and v_j the mean and variance of input j and |x_j| its norm, the expected error of a row is eps = sum_j (w0_j - w_j)
mu_j. Each cycle swaps two weights in every row with |eps| > threshold; the threshold is in units of the layer's output:

    revive  the removed p with the largest   sign(eps) w_p mu_p / v_p^power                           (eq. 4; its power is 1)
    prune   the survivor u with the smallest |w_u| |x_u|  among those with  sign(eps) w_u mu_u < 0    (eq. 5)

Both move eps towards 0. w_p is the value from the base, or the dense value if the base removed the weight; all other survivors
keep their value from the base. With n-of-m, p and u are in one group. A swap after which |eps| would not be smaller is not made,
and ends its row: the paper does not mention this case, but without the rule rows swap back and forth. The released code ends a
row as soon as eps would change its sign, and swaps only in attention; neither is done here.

Only the mean of the output is matched. The layer loss is its second moment, and may rise. A cycle costs a few passes over the
rows that are not finished.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core import Layer, Method, Pattern, Pruned, Site, Stats, Tap
from ..linalg import wide
from ..ranges import Exponent, NotNegative, StepsOrZero, checked
from ..statistics import Moments, MomentsState
from .successor import Successor

MOMENTS = Tap(Moments())


@dataclass(frozen=True)
@checked
class DSnoT(Successor):
    """The method DSnoT: swaps that bring the mean output of each row to that of the dense row."""

    base: Method
    cycles: StepsOrZero  # at most: so many swaps a row
    threshold: NotNegative  # of |eps|
    power: Exponent  # of the variance

    def reads(self, site: Site) -> tuple[Tap[MomentsState]]:
        return (MOMENTS,)

    def exchange(self, layer: Layer, pattern: Pattern, pruned: Pruned, stats: Stats) -> Pruned:
        mean_I, norm_I, spread_I = (
            part_I.to(wide(layer.weight_OI.dtype)) for part_I in stats.derived(MOMENTS, moments)
        )
        survivor_OI = pruned.weight_OI.where(pruned.keep_OI, layer.weight_OI)  # the value of each weight if it survives
        effect_OI, cost_OI = survivor_OI * mean_I, survivor_OI.abs() * norm_I
        merit_OI = effect_OI / spread_I**self.power
        keep_OI = pruned.keep_OI.clone()
        error_O = (layer.weight_OI * mean_I).sum(1) - effect_OI.where(keep_OI, 0).sum(1)
        group = pattern.group or keep_OI.shape[1]
        before, swaps = error_O.abs().mean(), torch.zeros_like(error_O[0])
        row_R = torch.arange(len(keep_OI), device=keep_OI.device)  # rows that are not finished
        for _ in range(self.cycles):
            open_R = error_O[row_R].abs() > self.threshold
            if not open_R.any():
                break
            row_R = row_R[open_R]
            error_R, keep_RI = error_O[row_R], keep_OI[row_R]
            parts = (effect_OI[row_R], merit_OI[row_R], cost_OI[row_R])
            revived_R, pruned_R, error_after_R = swap(*parts, keep_RI, error_R, group)
            better_R = error_after_R.abs() < error_R.abs()
            row_R = row_R[better_R]
            keep_OI[row_R, revived_R[better_R]] = True
            keep_OI[row_R, pruned_R[better_R]] = False
            error_O[row_R] = error_after_R[better_R]
            swaps += len(row_R)
        facts = {
            "swaps": float(swaps / len(keep_OI)),  # swaps per row
            "settled": float((error_O.abs() <= self.threshold).float().mean()),  # share of rows within the threshold
            "mean_error_left": float(error_O.abs().mean() / before.clamp(min=torch.finfo(before.dtype).tiny)),
        }
        return Pruned(survivor_OI.masked_fill(~keep_OI, 0), keep_OI, facts)


def moments(state: MomentsState) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, root mean square and variance of each input (I,). The variance of a constant input is the smallest positive number."""
    mean_I, square_I = state.sum_I / state.tokens, state.squares_I / state.tokens
    return mean_I, square_I.sqrt(), (square_I - mean_I.square()).clamp(min=torch.finfo(torch.float32).tiny)


def swap(
    effect_RI: Tensor, merit_RI: Tensor, cost_RI: Tensor, keep_RI: Tensor, error_R: Tensor, group: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The inputs (R,) to revive and to prune in each row, and the row's error after the swap: NaN if no swap is possible."""
    sign_R1 = error_R.sign()[:, None]
    fits_RI = keep_RI & (sign_R1 * effect_RI < 0)
    cost_RG, within_RG = cost_RI.where(fits_RI, torch.inf).unflatten(1, (-1, group)).min(2)
    merit_RGM = (sign_R1 * merit_RI).where(~keep_RI, -torch.inf).unflatten(1, (-1, group))
    merit_R, revived_R = merit_RGM.where(cost_RG.isfinite()[:, :, None], -torch.inf).flatten(1).max(1)
    group_R1 = (revived_R // group)[:, None]
    pruned_R1 = group_R1 * group + within_RG.gather(1, group_R1)
    change_R = effect_RI.gather(1, pruned_R1)[:, 0] - effect_RI.gather(1, revived_R[:, None])[:, 0]
    return revived_R, pruned_R1[:, 0], (error_R + change_R).where(merit_R > -torch.inf, torch.nan)

"""The choice of the weights to swap in a row. A swap revives one weight and prunes another; with n-of-m both are in one group.

`exchange`, for `swaps`, makes one swap after another: the best pair among a row's candidates. d_i is the change of weight i if it
is swapped, c = e G the slope, v_i = 2 d_i c_i + d_i^2 G_ii the cost of that change alone, and H_ij = 2 d_i d_j G_ij the
additional cost of two changes together. The swap (p, u) costs v_p + v_u + H_pu, and raises every v_i by H_ip + H_iu.
`trade`, for `pursuit`, makes many swaps at once: the revival with the largest gain with the pruning of least cost, and so on.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDINGS = 16  # a swap must lower the loss by more than so many roundings of the row's loss


def exchange(
    gram_II: Tensor, move_RI: Tensor, slope_RI: Tensor, keep_RI: Tensor, loss_R: Tensor, count: int, group: int | None
) -> tuple[Tensor, Tensor]:
    """Makes the swaps of one sweep in `keep_RI`. Returns the decrease of each row's loss (R,) and its number of swaps (R,)."""
    value_RI = (2 * slope_RI + move_RI * gram_II.diagonal()).mul_(move_RI)
    index_RC = torch.cat(pick(value_RI, keep_RI, count, group), 1)  # revivals, prunings
    half, row_R = index_RC.shape[1] // 2, torch.arange(len(index_RC), device=index_RC.device)
    fits_RC = keep_RI.gather(1, index_RC)
    fits_RC[:, :half].logical_not_()
    value_RC, move_RC = value_RI.gather(1, index_RC).where(fits_RC, torch.inf), move_RI.gather(1, index_RC)
    cross_RCC = gram_II[index_RC[:, :, None], index_RC[:, None]].mul_(2 * move_RC[:, :, None]).mul_(move_RC[:, None])
    pair_RCC = cross_RCC[:, :half, half:]
    if group:
        group_RC = index_RC // group
        pair_RCC = pair_RCC.where(group_RC[:, :half, None] == group_RC[:, None, half:], torch.inf)
    least_R, gain_R, swaps_R = ROUNDINGS * torch.finfo(loss_R.dtype).eps * loss_R, 0 * loss_R, 0 * loss_R
    for _ in range(half):
        cost_RCC = (pair_RCC + value_RC[:, :half, None]).add_(value_RC[:, None, half:])
        cost_R, pair_R = cost_RCC.flatten(1).min(1)
        better_R = -cost_R > least_R
        if not better_R.any():
            break
        a_R, b_R = pair_R // half, half + pair_R % half
        value_RC += (cross_RCC[row_R, a_R] + cross_RCC[row_R, b_R]).mul_(better_R[:, None])
        for at_R in (a_R, b_R):
            value_RC[row_R, at_R] = value_RC[row_R, at_R].where(~better_R, torch.inf)
            keep_RI[row_R, index_RC[row_R, at_R]] ^= better_R
        gain_R -= cost_R.where(better_R, 0)
        swaps_R += better_R
    return gain_R, swaps_R


def pick(value_RI: Tensor, keep_RI: Tensor, count: int, group: int | None) -> tuple[Tensor, Tensor]:
    """The inputs (R, C) of the cheapest revivals and of the cheapest prunings. If a row has fewer, other inputs fill up."""
    revive_RI, prune_RI = value_RI.where(~keep_RI, torch.inf), value_RI.where(keep_RI, torch.inf)
    if group is None:
        count = min(count, keep_RI.shape[1])
        return revive_RI.topk(count, largest=False).indices, prune_RI.topk(count, largest=False).indices
    best_RG = revive_RI.unflatten(1, (-1, group)).amin(2) + prune_RI.unflatten(1, (-1, group)).amin(2)
    group_RK = best_RG.topk(min(max(count // group, 1), best_RG.shape[1]), largest=False).indices
    index_RC = (group_RK[:, :, None] * group + torch.arange(group, device=group_RK.device)).flatten(1)
    return index_RC, index_RC


def trade(
    gain_RI: Tensor, cost_RI: Tensor, keep_RI: Tensor, count_R: Tensor, group: int | None
) -> tuple[Tensor, Tensor]:
    """The mask after at most `count_R` swaps per row, and their number. Only swaps whose gain exceeds the cost are made."""
    gain_RI, cost_RI, most = gain_RI.where(~keep_RI, -torch.inf), cost_RI.where(keep_RI, torch.inf), int(count_R.max())
    if group is None:
        gain_RC, revived_RC = gain_RI.topk(most)
        cost_RC, pruned_RC = cost_RI.topk(most, largest=False)
    else:
        gain_RG, revived_RG = gain_RI.unflatten(1, (-1, group)).max(2)
        cost_RG, pruned_RG = cost_RI.unflatten(1, (-1, group)).min(2)
        group_RC = (gain_RG - cost_RG).topk(min(most, gain_RG.shape[1])).indices
        gain_RC, cost_RC = gain_RG.gather(1, group_RC), cost_RG.gather(1, group_RC)
        revived_RC, pruned_RC = (group_RC * group + at_RG.gather(1, group_RC) for at_RG in (revived_RG, pruned_RG))
    taken_RC = (gain_RC > cost_RC) & (torch.arange(gain_RC.shape[1], device=count_R.device) < count_R[:, None])
    trial_RI = keep_RI.scatter(1, revived_RC, keep_RI.gather(1, revived_RC) | taken_RC)
    return trial_RI.scatter(1, pruned_RC, trial_RI.gather(1, pruned_RC) & ~taken_RC), taken_RC.sum(1)

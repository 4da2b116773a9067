"""Shares of removed weights per group with a given mean: from shares that grow with a price, and those of least cost.

    minimise sum_g c_g(s_g)   s.t.   sum_g n_g s_g = sparsity * sum_g n_g,   low <= s_g <= high,   every c_g convex and rising

At the solution all groups strictly between their bounds have the same marginal cost per weight, c_g'(s_g) / n_g = price; at the
upper bound it is at most the price, at the lower bound at least. The costs are given at equally spaced levels. The difference of
two neighbouring levels gives the marginal cost at their middle; its logarithm is interpolated linearly between the middles.
s_g(price) is the inverse of that function.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def balanced(share_at: Callable[[float], Tensor], size_G: Tensor, sparsity: float, low: float, high: float) -> Tensor:
    """The shares (G,) at the price in [low, high] for which their mean, weighted by `size_G`, is `sparsity`.

    `share_at(price)` must never fall with the price. Found by bisection to the last bit. If the shares jump at that price, all of
    them are interpolated by the same fraction of the jump.
    """
    total = sparsity * size_G.sum()
    while low < (middle := (low + high) / 2) < high:
        if share_at(middle) @ size_G < total:
            low = middle
        else:
            high = middle
    below_G, above_G = share_at(low), share_at(high)
    jump = (above_G - below_G) @ size_G
    part = ((total - below_G @ size_G) / jump).clamp(0, 1) if jump > 0 else 1.0
    return below_G + part * (above_G - below_G)


def least_cost(cost_GL: Tensor, size_G: Tensor, sparsity: float, lam: float) -> Tensor:
    """The shares (G,) of least total cost, each within `lam` of `sparsity`, with mean `sparsity` weighted by `size_G`.

    `cost_GL`: the cost of each group at L equally spaced shares from 0 to 1, in float64. If a cost is not convex, its marginal
    cost is replaced by the running maximum.
    """
    slope_GL = cost_GL.diff(dim=1) * (cost_GL.shape[1] - 1) / size_G[:, None]
    price_GL = slope_GL.clamp(min=torch.finfo(slope_GL.dtype).tiny).cummax(1).values.log()
    price_GL = torch.cat([price_GL[:, :1], price_GL, price_GL[:, -1:]], 1)
    level_L = torch.linspace(0, 1, cost_GL.shape[1], dtype=cost_GL.dtype)
    level_L = torch.cat([level_L[:1], (level_L[1:] + level_L[:-1]) / 2, level_L[-1:]])
    low, high = max(0.0, sparsity - lam), min(1.0, sparsity + lam)

    def share_at(price: float) -> Tensor:
        return _inverse(price_GL, level_L, price).clamp(low, high)

    return balanced(share_at, size_G, sparsity, price_GL.min().item() - 1, price_GL.max().item() + 1)


def _inverse(price_GL: Tensor, level_L: Tensor, price: float) -> Tensor:
    """The levels (G,) at which the rising prices reach `price`; the first or the last level if it is outside their range."""
    upper_G1 = torch.searchsorted(price_GL, price_GL.new_full((len(price_GL), 1), price)).clamp(1, len(level_L) - 1)
    below_G1, above_G1 = price_GL.gather(1, upper_G1 - 1), price_GL.gather(1, upper_G1)
    part_G1 = ((price - below_G1) / (above_G1 - below_G1)).nan_to_num(0).clamp(0, 1)
    return level_L[upper_G1 - 1].lerp(level_L[upper_G1], part_G1)[:, 0]

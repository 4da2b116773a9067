"""What `admm` and `alps` share: the layer in units in which every input has norm one, and a step of operator splitting.

With D = diag(G)^1/2 the loss of W under G is that of W D under A = D^-1 G D^-1, whose diagonal is one, and |W0 D| is Wanda's score
(but for the root of the number of tokens). From here on W stands for W D. The problem, and its scaled augmented Lagrangian method
(Boyd et al., Distributed Optimization by ADMM, 2011, sections 3.1.1 and 9.1) with U the dual variable and V = W + U, is

    min tr((W - W0) (A + damp I) (W - W0)')  such that W = Z, and a mask of the pattern allows Z
    Z  = V on `keep`, the mask of the largest |V|, and 0 elsewhere            the projection; V - Z is the next U
    W+ = W0 + (Z - U - W0) K,  K = rho (A + damp I + rho I)^-1,  V+ = W+ + U

A step is one product with K, O(O I^2), and a few passes. With `keep` held the problem is convex and Z goes to the survivors' best
values. K is a Cholesky factor and its inverse: together 1.4 products of a square layer. To solve with the factor takes 1.1 to 1.3
products each time, an eigendecomposition 6 to 18, and then two for every step; no one of them is more exact than another.

An input that was always zero has the least scale that there is: its weights go first, and one that a pattern keeps stays near W0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core import Layer, Pattern, Scope, UserError
from ..linalg import retry
from ..quadratic import rows_of_panel, unit_diagonal
from ..statistics import GramState


class Resolvent(NamedTuple):
    matrix_II: Tensor  # K
    damp: float  # as much as its Cholesky needed


def correlations(state: GramState) -> Tensor:
    """A."""
    return unit_diagonal(state.gram_II, 0.0).matrix_II


def scale(state: GramState) -> Tensor:
    """The diagonal of D (I,)."""
    diagonal_I = state.gram_II.diagonal()
    return diagonal_I.clamp(min=torch.finfo(diagonal_I.dtype).tiny).sqrt()


def resolvent(correlation_II: Tensor, damp: float, rho: float) -> Resolvent:
    """K, with ten times the damping where its Cholesky fails. O(I^3)."""

    def attempt(used: float) -> tuple[Tensor, Tensor]:
        damped_II = correlation_II.clone()
        damped_II.diagonal().add_(used + rho)
        lower_II, info = torch.linalg.cholesky_ex(damped_II)
        return lower_II, info

    lower_II, used = retry(attempt, damp)
    return Resolvent(torch.cholesky_inverse(lower_II).mul_(rho), used)


def advance(v_PI: Tensor, dense_PI: Tensor, off_PI: Tensor, resolvent_II: Tensor) -> Tensor:
    """W+. Leaves V+ in `v_PI`. `off_PI` holds ones where weights are removed, else zeros: products are faster than selections."""
    towards_PI = torch.addcmul(v_PI, v_PI, off_PI, value=-2).sub_(dense_PI)
    weight_PI = torch.addmm(dense_PI, towards_PI, resolvent_II)
    torch.addcmul(weight_PI, v_PI, off_PI, out=v_PI)
    return weight_PI


def rows_together(layer: Layer, pattern: Pattern, scope: Scope) -> int:
    """Rows are problems of their own, so they go in panels, unless their scores are compared with one another."""
    rows, inputs = layer.weight_OI.shape
    return rows if scope == "layer" and pattern.group is None else rows_of_panel(inputs)


def check_ranges(damp: float, rho: float) -> None:
    if not damp >= 0:
        raise UserError(f"damp={damp} is out of range: expected a number >= 0, such as 0.01")
    if not rho > 0:
        raise UserError(f"rho={rho} is out of range: expected a number > 0, such as 1")

"""Shared parts of `admm` and `alps`: the units in which weights are compared, and a step of operator splitting.

With D diagonal, the loss of W under H = G + damp diag G equals the loss of W D under B = D^-1 H D^-1. A metric is a choice of D:

    norm      D^2 = diag G              (W0 D)^2 is Wanda's score squared: the loss of removing a weight with all others fixed
    surgeon   D^2 = 1 / diag(H^-1)      (W0 D)^2 is the optimal brain surgeon's score: the loss if all others compensate for it

From here on W means W D. The problem, and its scaled augmented Lagrangian method (Boyd et al., Distributed Optimization by
ADMM, 2011, sections 3.1.1 and 9.1) with U the dual variable and V = W + U, is

    min tr((W - W0) B (W - W0)')  such that W = Z, and a mask of the pattern allows Z
    Z  = V on `keep`, the mask of the largest |V|, and 0 elsewhere            the projection; V - Z is the next U
    W+ = W0 + (Z - U - W0) K,  K = rho (B + rho I)^-1,  V+ = W+ + U

A step is one product with K, O(O I^2), and a few passes. With a fixed mask the problem is convex, and Z converges to the
survivors' best values. There U = -(Z - W0) B / rho on the removed weights: a weight comes back if its slope over rho exceeds the
value of a survivor. K is computed by a Cholesky factorisation and an inverse, together 1.4 products of a square layer. To solve
with the factor in each step instead takes 1.1 to 1.3 products per step, with errors of the same size in float32; an
eigendecomposition takes 6 to 18 products, and then two per step.

An input that was always zero has the smallest positive scale. Its weights are removed first; one that a pattern keeps stays near
W0.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from ..core import Layer, Pattern, Scope
from ..linalg import Factor, retry
from ..quadratic import rows_of_panel, unit_diagonal
from ..ranges import Range
from ..statistics import GramState

Metric = Literal["norm", "surgeon"]
Penalty = Annotated[float, Range(above=0, cap=10**6, such=1.0)]  # rho


class Units(NamedTuple):
    """The Gram matrix of a layer in the units of a metric, with its ridge and its scale."""

    matrix_II: Tensor  # D^-1 G D^-1
    ridge_I: Tensor  # the diagonal of D^-1 diag(G) D^-1: `damp` of it makes B of the matrix
    scale_I: Tensor  # the diagonal of D
    damp: float  # the damping that the Cholesky factorisation needed


class Resolvent(NamedTuple):
    """The matrix K of a step, and the damping that was used."""

    matrix_II: Tensor  # K
    damp: float


def units(state: GramState, metric: Metric, damp: float) -> Units:
    """The scaled Gram matrix of a layer, its ridge and its scale, for a metric. O(I^3), or O(I^2) for `norm`."""
    diagonal_I = state.gram_II.diagonal()
    norm_I = diagonal_I.clamp(min=torch.finfo(diagonal_I.dtype).tiny).sqrt()
    matrix_II, ones_I = unit_diagonal(state.gram_II, 0.0).matrix_II, torch.ones_like(norm_I)
    if metric == "norm":
        return Units(matrix_II, ones_I, norm_I, damp)
    lower_II, damp = _factor(matrix_II, ones_I, damp, 0.0)
    inverse_I = torch.cholesky_inverse(lower_II).diagonal()
    root_I = inverse_I.sqrt()
    return Units(matrix_II.mul_(root_I[:, None]).mul_(root_I), inverse_I.clone(), norm_I / root_I, damp)


def resolvent(matrix_II: Tensor, ridge_I: Tensor, damp: float, rho: float) -> Resolvent:
    """K = rho (B + rho I)^-1 and the damping that was used: ten times as much after a failed Cholesky factorisation. O(I^3)."""
    lower_II, used = _factor(matrix_II, ridge_I, damp, rho)
    return Resolvent(torch.cholesky_inverse(lower_II).mul_(rho), used)


def _factor(matrix_II: Tensor, ridge_I: Tensor, damp: float, rho: float) -> Factor:
    def ridged(used: float) -> Tensor:
        ridged_II = matrix_II.clone()
        ridged_II.diagonal().add_(ridge_I, alpha=used).add_(rho)
        return ridged_II

    return retry(lambda used: torch.linalg.cholesky_ex(ridged(used)), damp)


def advance(v_PI: Tensor, dense_PI: Tensor, off_PI: Tensor, resolvent_II: Tensor) -> Tensor:
    """The next W. Overwrites `v_PI` with the next V. `off_PI` is 1 where weights are removed, else 0: a product is fast."""
    towards_PI = torch.addcmul(v_PI, v_PI, off_PI, value=-2).sub_(dense_PI)
    weight_PI = torch.addmm(dense_PI, towards_PI, resolvent_II)
    torch.addcmul(weight_PI, v_PI, off_PI, out=v_PI)
    return weight_PI


def rows_together(layer: Layer, pattern: Pattern, scope: Scope) -> int:
    """The number of rows to process together: a panel, or all rows if the scope compares scores of different rows."""
    rows, inputs = layer.weight_OI.shape
    return rows if scope == "layer" and pattern.group is None else rows_of_panel(inputs)

"""Quadratic programmes with one matrix for all rows: min_x x A x' - 2 x r'. The x of the free set are free or in a box, others 0.

The damped layer loss (w - w0) H (w - w0)', H = G + lam I, is scaled to a unit diagonal once: with s_i = H_ii^-1/2 and
A = s H s, the change of a row is w' - w = s x, and its right side is r = -((w - w0) / s) A. Plain steps in x are then steps
with the Jacobi preconditioner in w. Rows are independent problems, so they are solved in panels that fit into the cache; a step
is one product with A for all rows of a panel, O(O I^2), and a few passes in place.

`conjugate_gradients`: Hestenes and Stiefel (1952). The residual is set to zero outside the free set in every step, which is the
same iteration on the submatrix of the free set. Activations share a few strong directions, on which plain iteration would spend
many steps; a preconditioner (`spiked`) takes them out beforehand. Q is a basis of k <= I / 4 such directions, found by three rounds
of subspace iteration. With Y = A Q, the matrix N = Y (Q'Y)^-1 Y' (Nystrom) is the largest part of A that they explain, never more
than A itself. The rest of the diagonal, d = 1 - diag N, goes into the scale: d^-1/2 A d^-1/2 ~ I + U U'. On the free set F of one
row, I + U U' has the inverse I - U_F C^-1 U_F' with C = I + U_F' U_F (Woodbury; Saad, Iterative Methods for Sparse Linear Systems,
2003, algorithm 9.1, for the iteration). One product computes the C of all rows: the free sets times the k (k + 1) / 2 products of
two columns of U. Each C is inverted once, O(O k^3); a step costs 2 O I k more.
`boxed`: MPRGP (Dostal, Optimal Quadratic Programming Algorithms, 2009, chapter 5). A row whose residual is mostly at weights
strictly inside the box takes a step of conjugate gradients among these. If that step would leave the box, the row goes as far as
the bound and from there takes a short projected step of fixed length (expansion, one more product). A row whose residual is mostly
at bounds takes a step away from the bounds (proportioning). The limit satisfies the Karush-Kuhn-Tucker conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .linalg import double, row_dot

# Elements in one array of a panel: few enough that the six arrays stay in the cache during a step, and enough for a product at full
# speed. A layer of 1536 x 576 is one panel, an eighth faster than six panels; one of 4096 x 4096 is four panels, an eighth faster
# than sixteen.
PANEL = 2**22

# Number of strong directions in the preconditioner: 8 at 576 inputs, 48 from 1536 on. Each row inverts a matrix of this size.
# After 10 steps the hardest real layer tried (1536 inputs) is 34 % above the optimum with 0 directions, 19 % with 8, 15 % with 16
# and 7 % with 48. One of 576 inputs is 8.5 % above it with 0 and 0.4 % with 8; there, more would cost more than they save.
SQUARED_INPUTS_EACH, FEWEST, MOST = 3 * 2**14, 8, 48

# A row stops once its residual has shrunk by three quarters of the digits of its dtype (its square by eps^1.5). With a singular
# matrix the rest may be rounding in the null space, where a step would be arbitrarily long.
DIGITS = 1.5

# The smallest value of d = 1 - diag N: the scale then stays within a factor of 7 of the Jacobi preconditioner's.
LEAST = 0.02


class UnitDiagonal(NamedTuple):
    """The matrix A = s (G + lam I) s with ones on the diagonal. An input that was always zero has s = 1 and zeros in A."""

    matrix_II: Tensor
    scale_I: Tensor
    damping: Tensor  # lam, a scalar


class Spiked(NamedTuple):
    """The matrix A = s (G + lam I) s, close to I + U U'. Its diagonal is not one."""

    matrix_II: Tensor
    scale_I: Tensor
    damping: Tensor
    low_IK: Tensor  # U
    pairs_IJ: Tensor  # U_ia U_ib for all b <= a, J = K (K + 1) / 2


class Solved(NamedTuple):
    """The change x, and the residual r - x A on the entries that may change (0 elsewhere)."""

    change_OI: Tensor
    residual_OI: Tensor


def rows_of_panel(inputs: int) -> int:
    """The number of rows that are solved together, for a layer with so many inputs."""
    return max(PANEL // inputs, 1)


def panels(*whole_OI: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the rows that go through together."""
    return zip(*(part_OI.split(rows_of_panel(part_OI.shape[1])) for part_OI in whole_OI), strict=True)


def strong_directions(inputs: int) -> int:
    """The number of strong directions that are worth their cost, for a layer with so many inputs."""
    return min(max(inputs**2 // SQUARED_INPUTS_EACH, FEWEST), MOST, inputs // 4)


def unit_diagonal(gram_II: Tensor, damp: float) -> UnitDiagonal:
    """The system A = s (G + lam I) s with a unit diagonal, where lam = damp * mean(diag G)."""
    damping = damp * gram_II.diagonal().mean()
    diagonal_I = gram_II.diagonal() + damping
    scale_I = diagonal_I.masked_fill(diagonal_I <= 0, 1).rsqrt()
    matrix_II = (gram_II * scale_I[:, None]).mul_(scale_I)
    matrix_II.diagonal().copy_(diagonal_I > 0)
    return UnitDiagonal(matrix_II, scale_I, damping)


def spiked(system: UnitDiagonal, rank: int) -> Spiked:
    """The system, rescaled, with its `rank` strongest directions in U. Rank 0 leaves the system as it is. O(I^2 rank).

    The subspace iteration starts from the columns of A with the largest norms. I + U U' is positive definite for every subspace.
    """
    matrix_II, scale_I, damping = system
    if rank == 0:
        return Spiked(*system, matrix_II[:, :0], matrix_II[:, :0])
    strongest_K = torch.linalg.vector_norm(matrix_II, dim=0).argsort(descending=True, stable=True)[:rank]
    image_IK = matrix_II[:, strongest_K]
    for _ in range(3):
        basis_IK = torch.linalg.qr(image_IK).Q
        image_IK = matrix_II @ basis_IK
    image_IK = double(image_IK)  # from here on the products are small, and need the digits
    value_K, vector_KK = torch.linalg.eigh(double(basis_IK).T @ image_IK)
    # If A has a lower rank, the remaining directions are rounding; the floor makes their weight negligible.
    floor = len(matrix_II) * torch.finfo(matrix_II.dtype).eps * value_K[-1] + torch.finfo(matrix_II.dtype).tiny
    low_IK = image_IK @ (vector_KK * value_K.maximum(floor).rsqrt())
    shrink_I = (1 - low_IK.square().sum(1)).clamp(min=LEAST).rsqrt()
    shrink_I, low_IK = shrink_I.to(matrix_II), (low_IK * shrink_I[:, None]).to(matrix_II).contiguous()
    a_J, b_J = torch.tril_indices(rank, rank, device=low_IK.device)
    matrix_II = (matrix_II * shrink_I[:, None]).mul_(shrink_I)
    return Spiked(matrix_II, scale_I * shrink_I, damping, low_IK, low_IK[:, a_J] * low_IK[:, b_J])


def conjugate_gradients(
    matrix_II: Tensor,
    pull_OI: Tensor,
    free_OI: Tensor,
    steps: int,
    low_IK: Tensor | None = None,
    pairs_IJ: Tensor | None = None,
) -> Solved:
    """Minimise x A x' - 2 x r' from x = 0 over the entries in `free_OI` (boolean, or ones and zeros).

    `low_IK` and `pairs_IJ` come from `spiked`, if `matrix_II` does; None: no preconditioner beyond the unit diagonal.
    """
    solved = Solved(torch.zeros_like(pull_OI), pull_OI.clone())
    low_IK, pairs_IJ = (matrix_II[:, :0] if part is None else part for part in (low_IK, pairs_IJ))
    for x_PI, residual_PI, free_PI in panels(*solved, free_OI):
        _descend(matrix_II, x_PI, residual_PI, free_PI.to(pull_OI.dtype), steps, low_IK, pairs_IJ)
    return solved


def _descend(
    matrix_II: Tensor,
    x_PI: Tensor,
    residual_PI: Tensor,
    free_PI: Tensor,
    steps: int,
    low_IK: Tensor,
    pairs_IJ: Tensor,
) -> None:
    """Solves one panel; writes into `x_PI` and `residual_PI`. `free_PI` holds ones and zeros: a product is ten times faster."""
    eps = torch.finfo(x_PI.dtype).eps
    residual_PI.mul_(free_PI)
    direction_PI, product_PI, scratch_PI = torch.zeros_like(x_PI), torch.empty_like(x_PI), torch.empty_like(x_PI)
    inner_PKK = _inner_inverse(free_PI, pairs_IJ, low_IK.shape[1])
    for step in range(steps):
        towards_PI = residual_PI
        square_P = torch.linalg.vector_norm(residual_PI, dim=1).square_()
        if low_IK.shape[1]:
            part_PK = residual_PI @ low_IK
            taken_PK = torch.bmm(part_PK[:, None], inner_PKK)[:, 0]
            square_P -= row_dot(part_PK, taken_PK)
            torch.mm(taken_PK, low_IK.T, out=scratch_PI)
            towards_PI = torch.addcmul(residual_PI, scratch_PI, free_PI, value=-1, out=scratch_PI)
        if step == 0:
            least_P, before_P, moves_P = square_P * eps**DIGITS, square_P, torch.zeros_like(square_P, dtype=torch.bool)
        ratio_P1 = (square_P / before_P).where(moves_P, 0)[:, None]
        torch.addcmul(towards_PI, direction_PI, ratio_P1, out=direction_PI)
        torch.mm(direction_PI, matrix_II, out=product_PI)
        product_PI.mul_(free_PI)
        curvature_P = torch.mul(direction_PI, product_PI, out=scratch_PI).sum(1)
        moves_P = (square_P > least_P) & (curvature_P > eps * square_P)  # |direction| >= |residual|
        step_P1 = (square_P / curvature_P).where(moves_P, 0)[:, None]
        x_PI.addcmul_(direction_PI, step_P1)
        residual_PI.addcmul_(product_PI, step_P1, value=-1)
        before_P = square_P


def _inner_inverse(free_PI: Tensor, pairs_IJ: Tensor, rank: int) -> Tensor:
    """The inverses (P, K, K) of I + U_F' U_F, with U_F the rows of U in the free set F of each row."""
    i_J, j_J = torch.tril_indices(rank, rank, device=free_PI.device)
    inner_PKK = free_PI.new_zeros(len(free_PI), rank, rank)
    inner_PKK[:, i_J, j_J] = free_PI @ pairs_IJ
    inner_PKK.diagonal(dim1=1, dim2=2).add_(1)
    lower_PKK, info_P = torch.linalg.cholesky_ex(inner_PKK)
    # Inverting the factor and multiplying takes half the time of `cholesky_inverse` on many small matrices.
    eye_KK = torch.eye(rank, dtype=free_PI.dtype, device=free_PI.device)
    half_PKK = torch.linalg.solve_triangular(lower_PKK, eye_KK, upper=False)
    # If rounding makes a factorisation fail, that row takes plain steps.
    inverse_PKK: Tensor = half_PKK.mT @ half_PKK
    return inverse_PKK.where((info_P == 0)[:, None, None], 0)


def leverages(free_PI: Tensor, low_IK: Tensor, pairs_IJ: Tensor) -> Tensor:
    """The leverages h_i = u_i (I + U_F' U_F)^-1 u_i' (P, I), with F the free set of each row and u_i the rows of U from `spiked`.

    With A ~ I + U U': for i in F, [A_FF^-1]_ii = 1 - h_i; for i outside F, the Schur complement of i is 1 + h_i. So removing x_i
    from the free set raises the minimum by x_i^2 / (1 - h_i), and adding i lowers it by r_i^2 / (1 + h_i), if all other free
    entries are solved again. O(O I k^2 / 2).
    """
    free_PI = free_PI.to(low_IK.dtype)
    a_J, b_J = torch.tril_indices(low_IK.shape[1], low_IK.shape[1], device=low_IK.device)
    inner_PJ = _inner_inverse(free_PI, pairs_IJ, low_IK.shape[1])[:, a_J, b_J]
    leverage_PI: Tensor = inner_PJ.mul_(2 - (a_J == b_J).to(low_IK)) @ pairs_IJ.T
    return leverage_PI


def boxed(matrix_II: Tensor, pull_OI: Tensor, limit_OI: Tensor, steps: int) -> Solved:
    """Minimise x A x' - 2 x r' from x = 0 subject to |x| <= limit (O, I). Limit 0 fixes an entry. Every step stays in the box."""
    solved = Solved(torch.zeros_like(pull_OI), pull_OI * (limit_OI > 0))
    for x_PI, residual_PI, limit_PI in panels(*solved, limit_OI):
        _descend_in_box(matrix_II, x_PI, residual_PI, limit_PI, steps)
    return solved


def _descend_in_box(matrix_II: Tensor, x_PI: Tensor, residual_PI: Tensor, limit_PI: Tensor, steps: int) -> None:
    """Solves one panel; writes into `x_PI` and `residual_PI`."""
    eps = torch.finfo(x_PI.dtype).eps
    # Two upper bounds of the largest eigenvalue: the largest absolute row sum (Gershgorin) and the Frobenius norm.
    largest = torch.minimum(matrix_II.abs().sum(1).amax(), matrix_II.norm())
    length = 1 / largest.clamp(min=torch.finfo(x_PI.dtype).tiny)
    pull_PI, open_PI = residual_PI.clone(), limit_PI > 0
    least_P = row_dot(residual_PI, residual_PI) * eps**DIGITS
    direction_PI = _inside(residual_PI, x_PI, limit_PI)
    for _ in range(steps):
        inside_PI, inward_PI = _inside(residual_PI, x_PI, limit_PI), _inward(residual_PI, x_PI, limit_PI)
        reduced_PI = inside_PI.abs().minimum(_room(inside_PI, x_PI, limit_PI) / length).copysign(inside_PI)
        proportional_P = row_dot(inward_PI, inward_PI) <= row_dot(reduced_PI, inside_PI)
        towards_PI = direction_PI.where(proportional_P[:, None], inward_PI)
        product_PI = (towards_PI @ matrix_II).mul_(open_PI)
        curvature_P = row_dot(towards_PI, product_PI)
        square_P = row_dot(towards_PI, towards_PI)
        moves_P = (square_P > least_P) & (curvature_P > eps * square_P)
        best_P = (row_dot(residual_PI, towards_PI) / curvature_P).where(moves_P, 0)
        bound_P = (
            (_room(towards_PI, x_PI, limit_PI) / towards_PI.abs()).masked_fill_(towards_PI == 0, torch.inf).amin(1)
        )
        step_P1 = best_P.minimum(bound_P)[:, None]
        x_PI.addcmul_(towards_PI, step_P1)
        residual_PI.addcmul_(product_PI, step_P1, value=-1)
        _snap(x_PI, limit_PI)
        expands_P = proportional_P & (bound_P <= best_P)
        if expands_P.any():
            e = expands_P.nonzero().flatten()
            x_EI, limit_EI = x_PI[e], limit_PI[e]
            x_EI += length * _inside(residual_PI[e], x_EI, limit_EI)
            _snap(x_EI, limit_EI)
            x_PI[e], residual_PI[e] = x_EI, (pull_PI[e] - x_EI @ matrix_II) * open_PI[e]
        inside_PI = _inside(residual_PI, x_PI, limit_PI)
        conjugate_P = proportional_P & ~expands_P & moves_P
        ratio_P = (row_dot(inside_PI, product_PI) / curvature_P).where(conjugate_P, 0)
        direction_PI = inside_PI.addcmul_(towards_PI, ratio_P[:, None], value=-1)


def projected(residual_OI: Tensor, change_OI: Tensor, limit_OI: Tensor) -> Tensor:
    """The part (O, I) of the residual along which x can still move inside the box. It is zero exactly at the minimum."""
    return _inside(residual_OI, change_OI, limit_OI) + _inward(residual_OI, change_OI, limit_OI)


def _inside(residual_PI: Tensor, x_PI: Tensor, limit_PI: Tensor) -> Tensor:
    """The residual at entries strictly inside the box, 0 elsewhere (Dostal's free gradient)."""
    return residual_PI.where(x_PI.abs() < limit_PI, 0)


def _inward(residual_PI: Tensor, x_PI: Tensor, limit_PI: Tensor) -> Tensor:
    """The residual at entries on a bound that point into the box, 0 elsewhere (Dostal's chopped gradient)."""
    return residual_PI.where((x_PI.abs() >= limit_PI) & (residual_PI * x_PI < 0), 0)


def _room(towards_PI: Tensor, x_PI: Tensor, limit_PI: Tensor) -> Tensor:
    """The distance that each entry may move in the direction of `towards_PI` before it reaches a bound."""
    return limit_PI - x_PI * towards_PI.sign()


def _snap(x_PI: Tensor, limit_PI: Tensor) -> None:
    """Clips x to the box in place. An entry that differs from its bound only by rounding is set to the bound."""
    near_PI = x_PI.abs() >= limit_PI * (1 - 4 * torch.finfo(x_PI.dtype).eps)
    x_PI.copy_(limit_PI.copysign(x_PI).where(near_PI, x_PI))

"""Pure tensor functions that the methods use: the layer loss, damped factors of the Gram matrix, the OBS sweep.

Layer loss of W against the dense W0 with G = X'X:   L(W) = tr((W - W0) G (W - W0)') = ||X (W - W0)'||_F^2.
Reported relative to removing everything: sqrt(L(W) / L(0)), in [0, inf); 0 is the dense layer.

Functions compute on the device of their inputs and do not branch on data, so they also run on `meta` tensors. The exceptions, which
must read values, are `retry` (did the Cholesky factorisation fail?), `all_finite`, `nonzeros` and `kth_smallest` on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: `dtype`, but at least float32."""
    return torch.promote_types(dtype, torch.float32)


def exact(device: torch.device) -> torch.dtype:
    """The dtype for long sums of vectors: float64, which is cheap at that size; float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def double(x_N: Tensor) -> Tensor:
    """x in float64; moved to the CPU if its device has no float64 (MPS)."""
    return x_N.to("cpu" if x_N.device.type == "mps" else x_N.device, torch.float64)


def pieces(x_NI: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """Copies of x in `dtype`, 256 rows at a time: a copy that fits into a core's cache is reduced several times faster."""
    for x_nI in x_NI.split(256):
        yield x_nI.to(dtype, copy=True)


def all_finite(x_ANY: Tensor) -> bool:
    """True if no element is NaN or infinite.

    The sum is checked first, which is several times faster: a finite sum means that every element is finite. Only if the sum is not
    finite, which an overflow can also cause, are the elements checked.
    """
    return bool(x_ANY.sum(dtype=wide(x_ANY.dtype)).isfinite()) or bool(x_ANY.isfinite().all())


def nonzeros(x_ANY: Tensor) -> int:
    """The number of elements that are not zero. Counting the truth values takes a third of the time of counting the elements."""
    return int((x_ANY != 0).count_nonzero())


def kth_smallest(x_GN: Tensor, k: int) -> Tensor:
    """The k-th smallest element (G, 1) of each row; k = 1 is the smallest. The input must hold no NaN. O(N) per row."""
    if x_GN.device.type == "cpu" and x_GN.dtype in (torch.float32, torch.float64):
        # NumPy's selection is vectorised: the same number in at most a sixth of the time
        found_G = [_between(x_GN[0], k)] if len(x_GN) == 1 else np.partition(x_GN.detach().numpy(), k - 1)[:, k - 1]
        return torch.as_tensor(found_G, dtype=x_GN.dtype)[:, None]
    return x_GN.kthvalue(k, dim=-1, keepdim=True).values


APART = 127  # distance between sampled elements: a prime, so that it does not follow the layer's width, with which values repeat


def _between(x_N: Tensor, k: int) -> float:
    """The k-th smallest element, found by sampling (Floyd and Rivest, Expected time bounds for selection, 1975).

    Two numbers of a sample enclose it almost surely, and only the elements between them are searched, in a third of the time. If
    they do not enclose it, all elements are searched.
    """
    x_N = x_N.detach()
    sample_n = np.sort(x_N[::APART].numpy())
    n = len(sample_n)
    rank, margin = k / len(x_N) * n, 2 * math.sqrt(n) + 1  # the margin is at least four standard deviations of the rank
    low, high = (float(sample_n[min(max(int(rank + away), 0), n - 1)]) for away in (-margin, margin))
    from_low_N = x_N >= low
    first = len(x_N) - int(from_low_N.count_nonzero())  # number of elements below `low`
    inside_n = x_N[from_low_N & (x_N <= high)].numpy()
    if not first < k <= first + len(inside_n):
        inside_n, first = x_N.numpy(), 0
    return float(np.partition(inside_n, k - first - 1)[k - first - 1])


def row_dot(a_OI: Tensor, b_OI: Tensor) -> Tensor:
    """The dot product <a_o, b_o> of each row (O,)."""
    dot_O: Tensor = torch.linalg.vecdot(a_OI, b_OI)
    return dot_O


def layer_loss(gram_II: Tensor, change_OI: Tensor) -> Tensor:
    """The layer loss tr(D G D') of a change D, a scalar in the dtype of G. O(O I^2)."""
    change_OI = change_OI.to(gram_II.dtype)
    return ((change_OI @ gram_II) * change_OI).sum()


def relative_error(gram_II: Tensor, dense_OI: Tensor, weight_OI: Tensor) -> Tensor:
    """The relative error sqrt(L(W) / L(0)); 0 if nothing is lost, also for a layer whose output is zero. Never negative."""
    change_OI = weight_OI.to(gram_II.dtype) - dense_OI.to(gram_II.dtype)
    loss = layer_loss(gram_II, change_OI).clamp(min=0)
    return torch.where(loss == 0, loss, loss / layer_loss(gram_II, dense_OI)).sqrt()


class Factor(NamedTuple):
    """An upper triangular `factor_II` with U'U = (G + damp * mean(diag G) * I)^-1, and the `damp` that was used."""

    factor_II: Tensor
    damp: float


def dead(gram_II: Tensor) -> Tensor:
    """True (I,) for the inputs that were zero on all text."""
    return gram_II.diagonal() == 0


def living(gram_II: Tensor) -> Tensor:
    """A copy of G in which an input that was always zero stands alone, with a one on the diagonal."""
    living_II = gram_II.clone()
    living_II.diagonal().masked_fill_(dead(gram_II), 1)
    return living_II


def damped(gram_II: Tensor, damp: float, diagonal_I: Tensor | None = None) -> Tensor:
    """G + damp * mean(diag G) * I. `damp` is a fraction, so it does not depend on the scale of the activations.

    `diagonal_I`: the diagonal of a larger matrix, if this one is a part of it. Its mean then counts.
    """
    damped_II = gram_II.clone()
    damped_II.diagonal().add_(damp * (gram_II.diagonal() if diagonal_I is None else diagonal_I).mean())
    return damped_II


def inverse_factor(matrix_II: Tensor) -> tuple[Tensor, Tensor]:
    """The upper triangular U with U'U = H^-1, and LAPACK's `info` (0 = success).

    With the order of rows and columns reversed, Cholesky gives H = R R' with R *upper* triangular, and then U = R^-1: one
    factorisation and one triangular inverse. To invert H and factor the inverse takes three such steps and loses digits.
    """
    lower_II, info = torch.linalg.cholesky_ex(matrix_II.flip(0, 1))
    return upper_inverse(lower_II.flip(0, 1)), info


WHOLE = 128  # a triangle with at most this many rows is not halved


def upper_inverse(upper_II: Tensor) -> Tensor:
    """The inverse of an upper triangular matrix, by halves:

        [A B; 0 D]^-1 = [A^-1  -A^-1 B D^-1; 0  D^-1]

    I^3 / 3 operations, nearly all in products of matrices; LAPACK's solve against the identity takes three times as many. The
    corner is solved for, not multiplied by A^-1, which keeps the residual as small as that of a solve (Du Croz and Higham,
    Stability of methods for matrix inversion, 1992).
    """
    inverse_II = torch.eye(len(upper_II), dtype=upper_II.dtype, device=upper_II.device)
    _invert_in_place(upper_II, inverse_II)
    return inverse_II


def _invert_in_place(upper_II: Tensor, inverse_II: Tensor) -> None:
    """Overwrites `inverse_II`, which holds the identity, with the inverse of `upper_II`."""
    I = len(upper_II)
    if I <= WHOLE:
        _solve_in_place(upper_II, inverse_II)
        return
    half = I // 2
    for part in (slice(half), slice(half, I)):
        _invert_in_place(upper_II[part, part], inverse_II[part, part])
    corner_AD = inverse_II[:half, half:]
    torch.mm(upper_II[:half, half:], inverse_II[half:, half:], out=corner_AD)
    _solve_in_place(upper_II[:half, :half], corner_AD.neg_())


def _solve_in_place(upper_II: Tensor, right_IN: Tensor) -> None:
    """Overwrites `right_IN` with the solution X of U X = right: first its lower half, then, by way of a product, its upper half."""
    I = len(upper_II)
    if I <= WHOLE:
        right_IN.copy_(torch.linalg.solve_triangular(upper_II, right_IN, upper=True))
        return
    half = I // 2
    _solve_in_place(upper_II[half:, half:], right_IN[half:])
    right_IN[:half].addmm_(upper_II[:half, half:], right_IN[half:], alpha=-1)
    _solve_in_place(upper_II[:half, :half], right_IN[:half])


MOST = 1e6  # the largest damping: beside it the Gram matrix is negligible


def retry(attempt: Callable[[float], tuple[Tensor, Tensor]], damp: float) -> Factor:
    """The factor from `attempt(damp)`, which returns a factor and LAPACK's `info`; after a failure with ten times the damping.

    The returned `damp` is the one that succeeded. Raises `ValueError` if no damping up to `MOST` does: then the matrix is no Gram
    matrix (not finite or not symmetric), or the given damping is NaN or above `MOST`.
    """
    used = damp
    while used <= MOST:  # False for NaN
        factor_II, info = attempt(used)
        if info.item() == 0:
            return Factor(factor_II, used)
        used = max(10 * used, torch.finfo(factor_II.dtype).eps)
    raise ValueError(f"no Cholesky factor of a Gram matrix at any damping from {damp} to {MOST:g}")


def escalate(gram_II: Tensor, damp: float) -> Factor:
    """The inverse factor of the damped Gram matrix. The damping is raised until the Cholesky factorisation succeeds."""
    return retry(lambda used: inverse_factor(damped(gram_II, used)), damp)


def line_search(slope_O: Tensor, curvature_O: Tensor) -> Tensor:
    """The step length (O,) along D for each row: t = clip(-slope / curvature, 0, 1), 0 where the curvature is not positive.

    With slope = <D, (W - W0) G> and curvature = <D, D G>, the loss L(W + t D) = L(W) + 2 t slope + t^2 curvature is smallest at t,
    and never larger than L(W).
    """
    return torch.where(curvature_O > 0, -slope_O / curvature_O, 0).clamp(0, 1)


def never_worse(gram_II: Tensor, dense_OI: Tensor, given_OI: Tensor, corrected_OI: Tensor) -> Tensor:
    """Per row, `corrected_OI` if its loss is smaller than that of `given_OI`, otherwise `given_OI` bit for bit. O(O I^2).

    Needed because rounding to a short dtype may undo a step. Uses L(b) - L(a) = <b - a, (a + b - 2 W0) G>: one product, and no
    difference of two nearly equal losses.
    """
    dense_OI, a_OI, b_OI = (weight_OI.to(gram_II.dtype) for weight_OI in (dense_OI, given_OI, corrected_OI))
    rise_O = (((a_OI - dense_OI) + (b_OI - dense_OI)) @ gram_II * (b_OI - a_OI)).sum(1)
    return torch.where((rise_O < 0)[:, None], corrected_OI, given_OI)


def obs_sweep(
    weight_OI: Tensor, factor_II: Tensor, choose: Callable[[Tensor], Tensor], width: int, group: int | None
) -> tuple[Tensor, Tensor]:
    """Remove weights from left to right; the inputs to the right compensate each removal optimally (arXiv 2301.00774).

    Returns the swept weights (O, I) and the mask (O, I). O(O I^2) time, one copy of the weights.

    Inputs are processed in blocks of `width`. `choose` gets the scores w^2 / U_jj^2 of the current weights and returns the mask:
    (O, group) at the first input of each group, or (O, width) at the start of each block if `group` is None. Removing input j
    changes the inputs k >= j of its row by -w_j U_jk / U_jj. About 16 inputs are updated one removal at a time, the rest of the
    block by one product for these 16, and the inputs right of the block by one product for the block.
    """
    # The weight is transposed, so that one input is one contiguous row.
    w_IO = weight_OI.T.clone(memory_format=torch.contiguous_format)
    keep_IO = torch.empty_like(w_IO, dtype=torch.bool)
    step, few = group or width, max(16 // group, 1) * group if group else 16
    for start in range(0, len(w_IO), width):
        panel_KO, keep_KO = w_IO[start : start + width], keep_IO[start : start + width]
        K = len(panel_KO)
        scale_K1 = factor_II.diagonal()[start : start + K, None]
        unit_KI = factor_II[start : start + K, start:] / scale_K1
        gone_KO, error_KO = torch.empty_like(panel_KO), torch.empty_like(panel_KO)
        # All views are made at once: to make a view of one row takes as long as to compute with it.
        panel, gone, error = panel_KO.unbind(), gone_KO.unbind(), error_KO.unbind()
        for first in range(0, K, few):
            last = min(first + few, K)
            for j in range(first, last):
                if j % step == 0:
                    score_KO = (panel_KO[j : j + step] / scale_K1[j : j + step]).square_()
                    keep_KO[j : j + step] = choose(score_KO.T.contiguous()).T
                    gone_KO[j : j + step] = ~keep_KO[j : j + step]
                torch.mul(panel[j], gone[j], out=error[j])
                panel_KO[j:last].addr_(unit_KI[j, j:last], error[j], alpha=-1)
            panel_KO[last:].addmm_(unit_KI[first:last, last:K].T, error_KO[first:last], alpha=-1)
        w_IO[start + K :].addmm_(unit_KI[:, K:].T, error_KO, alpha=-1)
    # U_jj / U_jj is 1, so a removed weight becomes w - w, which is exactly zero.
    return w_IO.T.contiguous(), keep_IO.T.contiguous()

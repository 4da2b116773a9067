"""ADMM and ALPS as their papers state them, in float64, sharing no code with ours: W is transposed, the dual is not scaled in ALPS.

`keep(V, share)` is the projection's mask of the transposed weights' absolute values at that share of the sparsity.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Keep = Callable[[torch.Tensor, float], torch.Tensor]


def system(X: torch.Tensor, metric: str, damp: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Both papers' columns of norm one and their ridge; or columns for which the inverse has ones on its diagonal."""
    H = X.T @ X
    H = H + damp * H.diagonal().diag()
    norm = X.norm(dim=0) if metric == "norm" else torch.linalg.inv(H).diagonal().rsqrt()
    return H / norm / norm[:, None], norm


def admm(
    W: torch.Tensor, X: torch.Tensor, keep: Keep, steps: tuple[int, int, int], metric: str, damp: float, rho: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """arXiv 2401.02938, algorithm 1 with the schedule of section 3.3: the weights and the mask. The paper's mask is
    held from `gradual` on."""
    iterations, gradual, held = steps
    XX, norm = system(X, metric, damp)
    inverse = torch.linalg.inv(XX + rho * torch.eye(len(norm), dtype=W.dtype))
    target = XX @ (W * norm).T
    W_hat, U = (W * norm).T, torch.zeros_like(W.T)
    for t in range(1, iterations + 1):
        if t <= iterations - held:
            M = keep((W_hat + U).T, 1 - (1 - min(t / gradual, 1)) ** 3).T
        Z = (W_hat + U) * M
        U = U + W_hat - Z
        W_hat = inverse @ (target + rho * (Z - U))
    return ((W_hat + U) * M).T / norm, M.T


def alps(
    W: torch.Tensor, X: torch.Tensor, keep: Keep, iterations: int, metric: str, damp: float, rho: float
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    """arXiv 2406.07831, algorithm 1: D, its support, and rho at every comparison."""
    H, norm = system(X, metric, damp)
    values, Q = torch.linalg.eigh(H)
    dense = (W * norm).T
    W_hat, V = dense, torch.zeros_like(dense)  # the first W-step from D = W and V = 0 leaves W where it is
    support = keep(dense.T, 1.0).T
    D = dense * support
    V = V + rho * (W_hat - D)
    compared, rhos = support, []
    for t in range(1, iterations + 1):
        W_hat = Q @ ((Q.T @ (H @ dense - V + rho * D)) / (values + rho)[:, None])
        support = keep((W_hat + V / rho).T, 1.0).T
        D = (W_hat + V / rho) * support
        V = V + rho * (W_hat - D)
        if t % 3 == 0:
            rhos.append(rho)
            changed, k = (support != compared).sum().item(), support.sum().item()
            compared = support
            if changed == 0:
                break
            rho = rho * (1.3 if changed >= 0.1 * k else 1.2 if changed >= 0.005 * k else 1.1)
    return D.T / norm, support.T, rhos

"""Wanda and SparseGPT as their papers state them, one weight and one column at a time, in float64, sharing no code with ours.

Slow on purpose: what is compared with must be readable beside the paper.
"""

from __future__ import annotations

import math

import torch


def wanda(W: torch.Tensor, X: torch.Tensor, removed_per_row: int) -> torch.Tensor:
    """arXiv 2306.11695, eq. 1 and section 3: True where a weight survives. X holds one token a row."""
    survives = torch.ones(W.shape, dtype=torch.bool)
    for o in range(W.shape[0]):
        metric = [abs(W[o, i].item()) * math.sqrt(sum(x * x for x in X[:, i].tolist())) for i in range(W.shape[1])]
        for i in sorted(range(W.shape[1]), key=lambda i: (metric[i], i))[:removed_per_row]:
            survives[o, i] = False
    return survives


def wanda_n_of_m(W: torch.Tensor, X: torch.Tensor, n: int, m: int) -> torch.Tensor:
    survives = torch.ones(W.shape, dtype=torch.bool)
    for o in range(W.shape[0]):
        for start in range(0, W.shape[1], m):
            group = range(start, start + m)
            metric = {i: abs(W[o, i].item()) * X[:, i].norm().item() for i in group}
            for i in sorted(group, key=lambda i: (metric[i], i))[: m - n]:
                survives[o, i] = False
    return survives


def sparsegpt(
    W: torch.Tensor, X: torch.Tensor, sparsity: float, damp: float, block: int, n_of_m: tuple[int, int] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """arXiv 2301.00774, algorithm 1: the weights and the mask. The inverse Hessian of the columns that remain is recomputed
    from scratch for every column, where the paper reads it off a Cholesky factor."""
    W = W.clone()
    rows, columns = W.shape
    H = X.T @ X
    dead = torch.diagonal(H) == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    H = H + damp * torch.diagonal(H).mean() * torch.eye(columns, dtype=W.dtype)
    remaining = [
        torch.linalg.inv(H[j:, j:]) for j in range(columns)
    ]  # [H_{j:,j:}]^-1; its corner is 1 / (the paper's c_jj)
    survives = torch.ones(rows, columns, dtype=torch.bool)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        for j in range(start, stop):
            if n_of_m is None and j == start:
                scores = [
                    (W[o, k].item() ** 2 / remaining[k][0, 0].item(), o, k)
                    for o in range(rows)
                    for k in range(start, stop)
                ]
                for _, o, k in sorted(scores)[: math.floor(sparsity * rows * (stop - start))]:
                    survives[o, k] = False
            if n_of_m is not None and j % n_of_m[1] == 0:
                n, m = n_of_m
                for o in range(rows):
                    costs = sorted((W[o, k].item() ** 2 / remaining[k][0, 0].item(), k) for k in range(j, j + m))
                    for _, k in costs[: m - n]:
                        survives[o, k] = False
            for o in range(rows):
                if not survives[o, j]:
                    W[o, j:] -= W[o, j] / remaining[j][0, 0] * remaining[j][0]
    W[~survives] = 0
    survives[:, dead] = False
    return W, survives


def best_survivors(W: torch.Tensor, survives: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """Row by row the minimum of (w - w0) H (w - w0)' with w = 0 off the survivors s: H_ss w_s = (H w0)_s, solved by Cholesky."""
    best = torch.zeros_like(W)
    for o in range(W.shape[0]):
        s = survives[o].nonzero().flatten()
        if len(s):
            factor = torch.linalg.cholesky(H[s][:, s])
            best[o, s] = torch.cholesky_solve((H @ W[o])[s, None], factor)[:, 0]
    return best

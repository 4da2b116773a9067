"""Swaps and DSnoT one row, one pair at a time, every loss computed from scratch, sharing no code with ours. Slow on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import torch


def pairs(survives: torch.Tensor, m: int, moved: set[int] | None = None) -> Iterator[tuple[int, int]]:
    """(removed p, survivor u) of one row, both in one group of m inputs and neither in `moved`."""
    for p in (~survives).nonzero().flatten().tolist():
        for u in survives.nonzero().flatten().tolist():
            if p // m == u // m and not {p, u} & (moved or set()):
                yield p, u


def swapped(survives: torch.Tensor, p: int, u: int) -> torch.Tensor:
    after = survives.clone()
    after[p], after[u] = True, False
    return after


def loss(w0: torch.Tensor, value: torch.Tensor, survives: torch.Tensor, G: torch.Tensor) -> float:
    e = torch.where(survives, value, torch.zeros_like(value)) - w0
    return float(e @ G @ e)


def one_swaps(W0: torch.Tensor, value: torch.Tensor, survives: torch.Tensor, G: torch.Tensor, m: int) -> torch.Tensor:
    """The best of all swaps while one lowers the loss; a weight that moved rests until no other swap does."""
    survives = survives.clone()
    for o in range(W0.shape[0]):
        moved: set[int] = set()
        while True:
            before = loss(W0[o], value[o], survives[o], G)
            tried = [
                (loss(W0[o], value[o], swapped(survives[o], p, u), G), p, u) for p, u in pairs(survives[o], m, moved)
            ]
            after, p, u = min(tried, default=(before, -1, -1))
            if after < before * (1 - 1e-12):
                survives[o] = swapped(survives[o], p, u)
                moved |= {p, u}
            elif moved:
                moved = set()
            else:
                break
    return survives


def dsnot(
    W0: torch.Tensor,
    value: torch.Tensor,
    survives: torch.Tensor,
    X: torch.Tensor,
    m: int,
    cycles: int,
    threshold: float,
) -> torch.Tensor:
    """arXiv 2310.08915, algorithm 1, within groups of m inputs, ended by a swap that does not bring the error down."""
    survives = survives.clone()
    mean, variance, norm = X.mean(0), X.var(0, correction=0), X.norm(dim=0)
    for o in range(W0.shape[0]):
        for _ in range(cycles):
            w = torch.where(survives[o], value[o], torch.zeros_like(value[o]))
            error = float(((W0[o] - w) * mean).sum())
            sign = 1 if error > 0 else -1
            found = [(p, u) for p, u in pairs(survives[o], m) if sign * value[o, u] * mean[u] < 0]
            if abs(error) <= threshold or not found:
                break
            p, u = max(
                found,
                key=lambda pair: (
                    float(sign * value[o, pair[0]] * mean[pair[0]] / variance[pair[0]]),
                    -abs(float(value[o, pair[1]] * norm[pair[1]])),
                ),
            )
            after = error - float(value[o, p] * mean[p]) + float(value[o, u] * mean[u])
            if abs(after) >= abs(error):
                break
            survives[o] = swapped(survives[o], p, u)
    return survives

"""The channel correctors on stored activations, one token's residual, one channel and one row at a time, in float64."""

from __future__ import annotations

import torch


def greedy(
    W: torch.Tensor,
    W0: torch.Tensor,
    survives: torch.Tensor,
    X: torch.Tensor,
    channels: list[int],
    c: float | None,
    passes: int,
    tolerance: float | None,
) -> tuple[torch.Tensor, int]:
    """The weights, and how many channels were worked on. `c` None: the exact minimum; `tolerance` None: no early stop.

    The residual R = X (W - W0)' is stored, and every step is judged by the loss that it leaves behind, not by a gradient.
    """
    given, W = W, W.clone()
    R = X @ (W - W0).T
    worked = 0
    for channel in channels * passes:
        x = X[:, channel]
        if not x.any():
            continue
        before = R.square().sum()
        moved = R.clone()
        steps = torch.zeros(W.shape[0], dtype=W.dtype)
        for o in range(W.shape[0]):
            if not survives[o, channel]:
                continue
            if c is None:
                steps[o] = -(R[:, o] @ x) / (x @ x)
            else:
                step = c * W0[o, channel]
                losses = {s: (R[:, o] + s * x).square().sum().item() for s in (0.0, step.item(), -step.item())}
                steps[o] = min(losses, key=losses.__getitem__)
            moved[:, o] += steps[o] * x
        if tolerance is not None and before - moved.square().sum() < tolerance * before:
            break
        W[:, channel] += steps
        R = moved
        worked += 1
    return searched(given, W - given, W0, X), worked


def hessian(
    W: torch.Tensor,
    W0: torch.Tensor,
    survives: torch.Tensor,
    X: torch.Tensor,
    channels: list[int],
    damp: float,
    max_change: float | None,
) -> torch.Tensor:
    """Ridge regression of the residual on the selected inputs, row by row."""
    ridge = damp * X.square().sum(0).mean() * torch.eye(len(channels), dtype=X.dtype)
    S = X[:, channels]
    D = torch.zeros_like(W)
    for o in range(W.shape[0]):
        D[o, channels] = -torch.linalg.solve(S.T @ S + ridge, S.T @ (X @ (W[o] - W0[o])))
        if max_change is not None:
            D[o] = torch.minimum(torch.maximum(D[o], -max_change * W0[o].abs()), max_change * W0[o].abs())
    D[~survives] = 0
    return searched(W, D, W0, X)


def searched(W: torch.Tensor, D: torch.Tensor, W0: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
    """Every row as far along its step as its loss falls, between 0 and all of it."""
    W = W.clone()
    for o in range(W.shape[0]):
        residual, effect = X @ (W[o] - W0[o]), X @ D[o]
        if effect.any():
            W[o] += D[o] * min(max((-(residual @ effect) / (effect @ effect)).item(), 0.0), 1.0)
    return W


def masked_least_squares(W0: torch.Tensor, survives: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
    """The survivors of every row that reproduce its dense output best."""
    W = torch.zeros_like(W0)
    for o in range(W0.shape[0]):
        S = survives[o]
        W[o, S] = torch.linalg.lstsq(X[:, S], X @ W0[o], driver="gelsd").solution
    return W

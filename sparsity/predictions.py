"""Distances between the next-token predictions of two models, and their gradients, from the hidden states behind the last blocks.

    kl     sum_v p(v) (log p(v) - log q(v)),   p the dense model's distribution of the next token, q the pruned model's; nats
    same   1 if p and q have the same most likely token, otherwise 0
    slope  the gradient of kl with respect to the pruned model's hidden states; with respect to its logits it is q - p

The logits of both models exist for a few positions at a time, never for a whole text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .evaluator import Model

POSITIONS = 64  # per window, computed at once: 2 x 12 MiB of float32 logits at a vocabulary of 50,000


@torch.no_grad()
def divergence(
    model: Model, ids_BT: Tensor, dense_BTI: Tensor, pruned_BTI: Tensor, outside: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The sums of kl and of same over the T - 1 positions that predict a token of the window: float64 (B,) each, on the CPU.

    `model` supplies the pruned model's head. `outside`: the dense model's parameters outside the blocks, if they differ from it.
    """
    kl_B, same_B = torch.zeros(2, len(ids_BT), dtype=torch.float64)
    for at in _pieces(ids_BT):
        log_p_BTV = model.head(ids_BT[:, at], dense_BTI[:, at], outside).float().log_softmax(-1)
        log_q_BTV = model.head(ids_BT[:, at], pruned_BTI[:, at]).float().log_softmax(-1)
        same_B += (log_p_BTV.argmax(-1) == log_q_BTV.argmax(-1)).sum(1).cpu()
        kl_BTV = log_q_BTV.sub_(log_p_BTV).neg_().mul_(log_p_BTV.exp_())
        kl_B += kl_BTV.sum(-1).cpu().double().sum(1)
    return kl_B, same_B


@torch.no_grad()
def slope(
    model: Model, ids_BT: Tensor, dense_BTI: Tensor, pruned_BTI: Tensor, outside: Mapping[str, Tensor] | None = None
) -> Tensor:
    """The gradient (B, T, I) of the mean kl over the B (T - 1) positions. The arguments are those of `divergence`."""
    slope_BTI = torch.zeros_like(pruned_BTI)
    for at in _pieces(ids_BT):
        p_BTV = model.head(ids_BT[:, at], dense_BTI[:, at], outside).float().softmax(-1)
        with torch.enable_grad():
            free_BTI = pruned_BTI[:, at].detach().requires_grad_()
            logits_BTV = model.head(ids_BT[:, at], free_BTI)
        q_BTV = logits_BTV.detach().float().softmax(-1)
        slope_BTI[:, at] = torch.autograd.grad(logits_BTV, free_BTI, q_BTV.sub_(p_BTV).to(logits_BTV.dtype))[0]
    return slope_BTI.div_(ids_BT.shape[0] * (ids_BT.shape[1] - 1))


def _pieces(ids_BT: Tensor) -> Iterator[slice]:
    """Slices of `POSITIONS` positions, without the last position: it predicts a token that the window does not hold."""
    last = ids_BT.shape[1] - 1
    yield from (slice(start, min(start + POSITIONS, last)) for start in range(0, last, POSITIONS))

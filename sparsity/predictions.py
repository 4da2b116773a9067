"""How far one model's predictions are from another's, token by token, from the hidden states of both behind their last blocks.

    kl     sum_v p(v) (log p(v) - log q(v)),   p the dense model's distribution of the next token, q the pruned model's; nats
    same   whether p and q have the same most likely token

The logits of both models exist for a few positions at a time, never for a whole text.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .core import Model

POSITIONS = 64  # of every window in a batch, at once: 2 x 12 MiB of float32 logits at a vocabulary of 50,000


def divergence(
    model: Model, ids_BT: Tensor, dense_BTI: Tensor, pruned_BTI: Tensor, outside: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over the T - 1 positions that predict a token of the window: kl and same, float64 (B,) each, on the CPU.

    `model` has the pruned one's head. `outside`: the dense model's parameters outside the blocks, where they are others.
    """
    kl_B, same_B = torch.zeros(2, len(ids_BT), dtype=torch.float64)
    last = ids_BT.shape[1] - 1  # predicts what the window does not hold
    for start in range(0, last, POSITIONS):
        at = slice(start, min(start + POSITIONS, last))
        log_p_BTV = model.head(ids_BT[:, at], dense_BTI[:, at], outside).float().log_softmax(-1)
        log_q_BTV = model.head(ids_BT[:, at], pruned_BTI[:, at]).float().log_softmax(-1)
        same_B += (log_p_BTV.argmax(-1) == log_q_BTV.argmax(-1)).sum(1).cpu()
        kl_BTV = log_q_BTV.sub_(log_p_BTV).neg_().mul_(log_p_BTV.exp_())
        kl_B += kl_BTV.sum(-1).cpu().double().sum(1)
    return kl_B, same_B

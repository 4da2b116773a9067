"""The squared norm g_i = sum over tokens of x_i^2 of each input i: the diagonal of the Gram matrix. O(N I) time, O(I) memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import exact, pieces


class SquaredNormState(NamedTuple):
    """The sums over the tokens so far, and the number of tokens."""

    total_I: Tensor  # sum of squares per input
    tokens: int


@dataclass(frozen=True)
class SquaredNorm:
    """The statistic "squared norm of each input"."""

    @property
    def grouping(self) -> None:
        return None

    def zero(self, x_BTI: Tensor, rows: int = 0) -> SquaredNormState:
        return SquaredNormState(torch.zeros(x_BTI.shape[-1], dtype=exact(x_BTI.device), device=x_BTI.device), 0)

    def add(self, state: SquaredNormState, x_BTI: Tensor, labels_BT: Tensor | None = None) -> SquaredNormState:
        # The square of a float32 number is exact in float64. Only the sum is rounded, at 1e-16, so the batch size hardly matters.
        x_NI = x_BTI.flatten(0, -2)
        for x_nI in pieces(x_NI, state.total_I.dtype):
            state.total_I.add_(x_nI.square_().sum(0))
        return state._replace(tokens=state.tokens + len(x_NI))

    def merge(self, a: SquaredNormState, b: SquaredNormState) -> SquaredNormState:
        return SquaredNormState(a.total_I + b.total_I, a.tokens + b.tokens)

    def finite(self, state: SquaredNormState) -> bool:
        return bool(state.total_I.isfinite().all())

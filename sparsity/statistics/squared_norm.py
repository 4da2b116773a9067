"""g_i = sum over tokens of x_i^2: the diagonal of the Gram matrix, at O(N I) time and O(I) memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import wide


class SquaredNormState(NamedTuple):
    total_I: Tensor  # sum of squares per input
    tokens: int


@dataclass(frozen=True)
class SquaredNorm:
    def zero(self, x_BTI: Tensor) -> SquaredNormState:
        # float64 costs nothing at this size; MPS is the one backend without it
        dtype = torch.float32 if x_BTI.device.type == "mps" else torch.float64
        return SquaredNormState(torch.zeros(x_BTI.shape[-1], dtype=dtype, device=x_BTI.device), 0)

    def add(self, state: SquaredNormState, x_BTI: Tensor) -> SquaredNormState:
        x_NI = x_BTI.flatten(0, -2).to(wide(x_BTI.dtype))  # the terms as the model has them, only their sum in float64
        squares_I = x_NI.square().sum(0, dtype=state.total_I.dtype)
        return SquaredNormState(state.total_I.add_(squares_I), state.tokens + len(x_NI))

    def merge(self, a: SquaredNormState, b: SquaredNormState) -> SquaredNormState:
        return SquaredNormState(a.total_I + b.total_I, a.tokens + b.tokens)

    def finite(self, state: SquaredNormState) -> bool:
        return bool(state.total_I.isfinite().all())

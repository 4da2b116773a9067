"""Per input, the sum over tokens of x_i and of x_i^2: mean and variance, at O(N I) time and O(I) memory. For James-Stein only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import wide


class MomentsState(NamedTuple):
    sum_I: Tensor
    squares_I: Tensor
    tokens: int


@dataclass(frozen=True)
class Moments:
    def zero(self, x_BTI: Tensor) -> MomentsState:
        # float64 as in SquaredNorm, and here the variance is a difference; MPS is the one backend without it
        dtype = torch.float32 if x_BTI.device.type == "mps" else torch.float64
        zero_I = torch.zeros(x_BTI.shape[-1], dtype=dtype, device=x_BTI.device)
        return MomentsState(zero_I, zero_I.clone(), 0)

    def add(self, state: MomentsState, x_BTI: Tensor) -> MomentsState:
        x_NI = x_BTI.flatten(0, -2).to(wide(x_BTI.dtype))  # the terms as the model has them, only their sums in float64
        sum_I = x_NI.sum(0, dtype=state.sum_I.dtype)
        squares_I = x_NI.square().sum(0, dtype=state.squares_I.dtype)
        return MomentsState(state.sum_I.add_(sum_I), state.squares_I.add_(squares_I), state.tokens + len(x_NI))

    def merge(self, a: MomentsState, b: MomentsState) -> MomentsState:
        return MomentsState(a.sum_I + b.sum_I, a.squares_I + b.squares_I, a.tokens + b.tokens)

    def finite(self, state: MomentsState) -> bool:
        return bool((state.sum_I.isfinite() & state.squares_I.isfinite()).all())

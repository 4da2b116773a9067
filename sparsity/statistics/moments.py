"""The sums over tokens of x_i and of x_i^2 for each input i, which give its mean and variance. O(N I) time, O(I) memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import exact, pieces


class MomentsState(NamedTuple):
    """The two sums over the tokens so far, and the number of tokens."""

    sum_I: Tensor
    squares_I: Tensor
    tokens: int


@dataclass(frozen=True)
class Moments:
    """The statistic "mean and variance of each input"."""

    @property
    def grouping(self) -> None:
        return None

    def zero(self, x_BTI: Tensor, rows: int = 0) -> MomentsState:
        zero_I = torch.zeros(x_BTI.shape[-1], dtype=exact(x_BTI.device), device=x_BTI.device)
        return MomentsState(zero_I, zero_I.clone(), 0)

    def add(self, state: MomentsState, x_BTI: Tensor, labels_BT: Tensor | None = None) -> MomentsState:
        x_NI = x_BTI.flatten(0, -2)
        for x_nI in pieces(x_NI, state.sum_I.dtype):
            state.sum_I.add_(x_nI.sum(0))
            state.squares_I.add_(x_nI.square_().sum(0))
        return state._replace(tokens=state.tokens + len(x_NI))

    def merge(self, a: MomentsState, b: MomentsState) -> MomentsState:
        return MomentsState(a.sum_I + b.sum_I, a.squares_I + b.squares_I, a.tokens + b.tokens)

    def finite(self, state: MomentsState) -> bool:
        return bool((state.sum_I.isfinite() & state.squares_I.isfinite()).all())

"""G = X'X, the sum over tokens of x x': every quadratic loss of a layer is a function of it. O(N I^2) time, O(I^2) memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import wide


class GramState(NamedTuple):
    gram_II: Tensor
    tokens: int


@dataclass(frozen=True)
class Gram:
    @property
    def grouping(self) -> None:
        return None

    def zero(self, x_BTI: Tensor, rows: int = 0) -> GramState:
        I = x_BTI.shape[-1]
        return GramState(torch.zeros(I, I, dtype=wide(x_BTI.dtype), device=x_BTI.device), 0)

    def add(self, state: GramState, x_BTI: Tensor, labels_BT: Tensor | None = None) -> GramState:
        x_NI = x_BTI.flatten(0, -2).to(state.gram_II.dtype)
        return GramState(state.gram_II.addmm_(x_NI.T, x_NI), state.tokens + len(x_NI))

    def merge(self, a: GramState, b: GramState) -> GramState:
        return GramState(a.gram_II + b.gram_II, a.tokens + b.tokens)

    def finite(self, state: GramState) -> bool:
        return bool(state.gram_II.isfinite().all())

"""The Gram matrix G = X'X, the sum over tokens of x x'. Every quadratic loss of a layer depends on the text through G alone.

O(N I^2) time, O(I^2) memory. Four panels of rows are computed, each from the diagonal to the right, and mirrored: 5/8 of the work
of the whole product, and the result is exactly symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import all_finite, wide

PANELS = 4


class GramState(NamedTuple):
    """G (I, I) of the tokens so far, and their number."""

    gram_II: Tensor
    tokens: int


@dataclass(frozen=True)
class Gram:
    """The statistic "Gram matrix of the inputs", in float32 at least."""

    @property
    def grouping(self) -> None:
        return None

    def zero(self, x_BTI: Tensor, rows: int = 0) -> GramState:
        I = x_BTI.shape[-1]
        return GramState(torch.zeros(I, I, dtype=wide(x_BTI.dtype), device=x_BTI.device), 0)

    def add(self, state: GramState, x_BTI: Tensor, labels_BT: Tensor | None = None) -> GramState:
        x_NI = x_BTI.flatten(0, -2).to(state.gram_II.dtype)
        gram_II, I = state.gram_II, x_NI.shape[1]
        width = -(-I // PANELS)
        for start in range(0, I, width):
            end = start + width
            gram_II[start:end, start:].addmm_(x_NI[:, start:end].T, x_NI[:, start:])
            gram_II[end:, start:end] = gram_II[start:end, end:].T
        return GramState(gram_II, state.tokens + len(x_NI))

    def merge(self, a: GramState, b: GramState) -> GramState:
        return GramState(a.gram_II + b.gram_II, a.tokens + b.tokens)

    def finite(self, state: GramState) -> bool:
        return all_finite(state.gram_II.diagonal())  # |G_ij|^2 <= G_ii G_jj

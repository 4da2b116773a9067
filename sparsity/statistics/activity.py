"""The activity of each neuron: TF_j = mean over tokens of |a_j|, and the number of tokens with |a_j| > threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg import exact, pieces


class ActivityState(NamedTuple):
    """Sums over the tokens so far, one per neuron."""

    total_J: Tensor  # sum of |a|
    active_J: Tensor  # tokens with |a| > threshold
    tokens: int


@dataclass(frozen=True)
class Activity:
    """The statistic "activity of each neuron". `threshold`: an activation above it, in absolute value, counts as active."""

    threshold: float

    @property
    def grouping(self) -> None:
        return None

    def zero(self, x_BTI: Tensor, rows: int = 0) -> ActivityState:
        total_J = torch.zeros(x_BTI.shape[-1], dtype=exact(x_BTI.device), device=x_BTI.device)
        return ActivityState(total_J, torch.zeros_like(total_J), 0)

    def add(self, state: ActivityState, x_BTI: Tensor, labels_BT: Tensor | None = None) -> ActivityState:
        x_NJ = x_BTI.flatten(0, -2)
        for x_nJ in pieces(x_NJ, x_NJ.dtype):
            size_nJ = x_nJ.abs_()
            state.total_J.add_(size_nJ.to(state.total_J.dtype).sum(0))
            state.active_J.add_((size_nJ > self.threshold).sum(0))
        return state._replace(tokens=state.tokens + len(x_NJ))

    def merge(self, a: ActivityState, b: ActivityState) -> ActivityState:
        return ActivityState(a.total_J + b.total_J, a.active_J + b.active_J, a.tokens + b.tokens)

    def finite(self, state: ActivityState) -> bool:
        return bool(state.total_J.isfinite().all())

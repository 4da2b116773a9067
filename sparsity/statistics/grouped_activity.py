"""The matrix M_rj = mean of |a_j| over the tokens of row r (a document or a topic), which TF-IDF over neurons reads. O(R J) memory.

The fold keeps sums: with C the R x N matrix that is 1 where token n belongs to row r, the sum is C |A|. A matrix product adds in
the same order in every run; scattered additions on a GPU do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..core import Grouping
from ..linalg import exact, wide


class GroupedActivityState(NamedTuple):
    """Sums over the tokens so far, per row and neuron, and the number of tokens per row."""

    total_RJ: Tensor  # sum of |a| over a row's tokens
    tokens_R: Tensor

    @property
    def mean_RJ(self) -> Tensor:
        """The mean of |a| over each row's tokens."""
        return self.total_RJ / self.tokens_R[:, None]

    @property
    def tokens(self) -> int:
        """The number of tokens of all rows."""
        return int(self.tokens_R.sum())


@dataclass(frozen=True)
class GroupedActivity:
    """The statistic "mean activity of each neuron in each row of a grouping"."""

    grouping: Grouping

    def zero(self, x_BTI: Tensor, rows: int) -> GroupedActivityState:
        total_RJ = torch.zeros(rows, x_BTI.shape[-1], dtype=exact(x_BTI.device), device=x_BTI.device)
        return GroupedActivityState(total_RJ, torch.zeros(rows, dtype=torch.long, device=x_BTI.device))

    def add(self, state: GroupedActivityState, x_BTI: Tensor, labels_BT: Tensor | None) -> GroupedActivityState:
        assert labels_BT is not None
        row_R = torch.arange(len(state.tokens_R), device=x_BTI.device)
        member_RN = labels_BT.flatten() == row_R[:, None]
        size_NJ = x_BTI.flatten(0, -2).abs().to(wide(x_BTI.dtype))
        total_RJ = state.total_RJ.add_(member_RN.to(size_NJ.dtype) @ size_NJ)
        return GroupedActivityState(total_RJ, state.tokens_R.add_(member_RN.sum(1)))

    def merge(self, a: GroupedActivityState, b: GroupedActivityState) -> GroupedActivityState:
        return GroupedActivityState(a.total_RJ + b.total_RJ, a.tokens_R + b.tokens_R)

    def finite(self, state: GroupedActivityState) -> bool:
        return bool(state.total_RJ.isfinite().all())

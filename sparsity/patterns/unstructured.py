"""Unstructured: any weights may be removed, exactly floor(sparsity * n) of the n that the scope compares (a row, or the layer)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..core import Layer, Scope
from ..linalg import kth_smallest
from ..ranges import Sparsity, checked


def keep_largest(score_GN: Tensor, removed: int) -> Tensor:
    """The mask (G, N) of all but the `removed` smallest scores of each row. Among equal scores the lower index is removed first.

    One selection, O(N), instead of a sort. A quantised model has many equal scores, so those at the threshold are counted.
    """
    if removed == 0:
        return torch.ones_like(score_GN, dtype=torch.bool)
    threshold_G1 = kth_smallest(score_GN, removed)
    above_GN = score_GN > threshold_G1
    room_G1 = score_GN.shape[-1] - removed - above_GN.sum(dim=-1, keepdim=True, dtype=torch.int32)
    if score_GN.device.type == "cpu" and not room_G1.any():
        return above_GN  # no survivor equals the threshold; on other devices this check takes longer than the rest
    tied_GN = score_GN == threshold_G1
    behind_GN = tied_GN.flip(-1).cumsum(dim=-1, dtype=torch.int32).flip(-1)  # number of equal scores from here on
    return above_GN | (tied_GN & (behind_GN <= room_G1))


@dataclass(frozen=True)
@checked
class Unstructured:
    """The pattern that may remove any weights."""

    sparsity: Sparsity  # the fraction removed

    @property
    def group(self) -> None:
        return None

    def check(self, layer: Layer) -> None:
        """Accepts every layer."""

    def keep(self, score_OI: Tensor, scope: Scope) -> Tensor:
        score_GN = score_OI if scope == "row" else score_OI.flatten()[None]
        # computed from the decimal that the user wrote: 0.7 of 10 is 7, but with binary numbers floor(0.7 * 10) may be 6
        removed = math.floor(Fraction(str(self.sparsity)) * score_GN.shape[1])
        return keep_largest(score_GN, removed).view_as(score_OI)

    def at(self, share: Fraction) -> Unstructured:
        """This pattern with sparsity `share`. If share * N is a whole number, exactly that many of N weights are removed."""
        sparsity = float(share)
        while (
            Fraction(str(sparsity)) < share
        ):  # `keep` reads it as a decimal and rounds down, so it must not be smaller
            sparsity = math.nextafter(sparsity, 1)
        return Unstructured(sparsity)

    def partly(self, share: float) -> Unstructured:
        """This pattern with sparsity * share, computed from the two decimals: 0.1 of 0.7 is 0.07, not a little less."""
        return Unstructured(float(Fraction(str(self.sparsity)) * Fraction(str(share))))

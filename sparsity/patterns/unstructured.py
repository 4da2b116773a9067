"""Any weights may go: exactly floor(sparsity * n) of the n that the scope compares, a row's inputs or the whole layer."""

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
    """True for all but the `removed` smallest scores of each row; among equal scores the lower index is removed first.

    One selection, O(N), in place of a sort. A quantised model ties heavily, so ties at the threshold are counted.
    """
    if removed == 0:
        return torch.ones_like(score_GN, dtype=torch.bool)
    threshold_G1 = kth_smallest(score_GN, removed)
    above_GN = score_GN > threshold_G1
    room_G1 = score_GN.shape[-1] - removed - above_GN.sum(dim=-1, keepdim=True, dtype=torch.int32)
    if score_GN.device.type == "cpu" and not room_G1.any():
        return above_GN  # nothing that stays ties with what goes; on other devices to look takes longer than to go on
    tied_GN = score_GN == threshold_G1
    behind_GN = tied_GN.flip(-1).cumsum(dim=-1, dtype=torch.int32).flip(-1)  # how many tie from here on
    return above_GN | (tied_GN & (behind_GN <= room_G1))


@dataclass(frozen=True)
@checked
class Unstructured:
    sparsity: Sparsity  # the fraction removed

    @property
    def group(self) -> None:
        return None

    def check(self, layer: Layer) -> None:
        """Every layer can be pruned at every fraction."""

    def keep(self, score_OI: Tensor, scope: Scope) -> Tensor:
        score_GN = score_OI if scope == "row" else score_OI.flatten()[None]
        # the decimal that the user wrote, not its binary neighbour: 0.7 of 10 is 7, where floor(0.7 * 10.0) may be 6
        removed = math.floor(Fraction(str(self.sparsity)) * score_GN.shape[1])
        return keep_largest(score_GN, removed).view_as(score_OI)

    def at(self, share: Fraction) -> Unstructured:
        """Of any N weights of which `share` is a whole number, exactly that many are removed."""
        sparsity = float(share)
        while Fraction(str(sparsity)) < share:  # read as its decimal, and floored: it must not lie below
            sparsity = math.nextafter(sparsity, 1)
        return Unstructured(sparsity)

    def partly(self, share: float) -> Unstructured:
        """The product of two decimals, as above: a tenth of 0.7 is 0.07, where 0.1 * 0.7 is a little less."""
        return Unstructured(float(Fraction(str(self.sparsity)) * Fraction(str(share))))

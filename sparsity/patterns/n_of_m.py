"""n-of-m: exactly n of every m consecutive weights of a row are kept. Papers write 2:4; some of them count the zeros instead."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from ..core import Layer, Scope, UserError
from ..ranges import Count, Refused, checked


@dataclass(frozen=True)
@checked
class NofM:
    """The pattern that keeps n of every m consecutive weights of a row."""

    n: Count  # kept
    m: Count  # of so many consecutive inputs

    def __post_init__(self) -> None:
        if self.n > self.m:
            raise Refused({"n": self.n, "m": self.m}, "n <= m: n weights are kept of m")

    @property
    def sparsity(self) -> float:
        return 1 - self.n / self.m

    @property
    def group(self) -> int:
        return self.m

    def check(self, layer: Layer) -> None:
        inputs = layer.weight_OI.shape[1]
        if inputs % self.m:
            raise UserError(
                f"{layer.site.name} has {inputs} inputs: pattern {self.n}-of-{self.m} expects a multiple of {self.m}. "
                f"Leave the layer out (scope.skip=[{layer.site.leaf}]) or choose another pattern"
            )

    def keep(self, score_OI: Tensor, scope: Scope) -> Tensor:
        """The mask (O, I) of the n largest scores in each group. Groups lie within a row, so the scope makes no difference."""
        score_GM = score_OI.reshape(-1, self.m)
        order_GM = score_GM.argsort(dim=-1, stable=True)  # stable: among equal scores the lower index is removed first
        keep_GM = torch.ones_like(score_GM, dtype=torch.bool).scatter_(1, order_GM[:, : self.m - self.n], False)
        return keep_GM.view_as(score_OI)

    def at(self, share: Fraction) -> NofM:
        raise UserError(
            f"pattern {self.n}-of-{self.m} removes {self.sparsity:.2%} of every layer: expected no other fraction"
        )

    def partly(self, share: float) -> NofM:
        """The pattern (m - floor((m - n) * share))-of-m: only whole weights can be removed."""
        return NofM(self.m - math.floor((self.m - self.n) * Fraction(str(share))), self.m)

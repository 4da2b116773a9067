"""Small layers with correlated inputs, as values that every test can share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsity.core import Folded, Layer, Neurons, Site, Stats, Tap
from sparsity.statistics import Gram, SquaredNorm

Q_PROJ = "model.layers.0.self_attn.q_proj"
SITE = Site(0, Q_PROJ, "attention", Neurons("row", 6, Q_PROJ, "output"))
GRAM, NORM = Tap(Gram()), Tap(SquaredNorm())


@dataclass(frozen=True)
class Problem:
    x_NI: Tensor
    layer: Layer

    @property
    def gram_II(self) -> Tensor:
        return self.x_NI.T @ self.x_NI

    def stats(self) -> Stats:
        """The statistics that a stream would have folded from these tokens."""
        return Stats(SITE, {tap: Folded(fold(tap.statistic, self.x_NI[None])) for tap in (GRAM, NORM)})


def problem(
    outputs: int = 6, inputs: int = 16, tokens: int = 200, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Problem:
    g = torch.Generator().manual_seed(seed)
    mix_II = torch.randn(inputs, inputs, generator=g, dtype=torch.float64)
    x_NI = torch.randn(tokens, inputs, generator=g, dtype=torch.float64) @ mix_II
    weight_OI = torch.randn(outputs, inputs, generator=g, dtype=torch.float64)
    return Problem(x_NI.to(dtype), Layer(SITE, weight_OI.to(dtype)))


def white(p: Problem) -> Problem:
    """A layer whose inputs have a Gram matrix that is a multiple of the identity."""
    q_NI, _ = torch.linalg.qr(p.x_NI)
    return Problem(3 * q_NI, p.layer)


def fold(statistic, *batches: Tensor):
    state = statistic.zero(batches[0])
    for x_BTI in batches:
        state = statistic.add(state, x_BTI)
    return state

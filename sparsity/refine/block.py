"""Tune the survivors of a whole block until it puts out what the dense block did: block reconstruction (arXiv 2406.15524).

A corrector repairs one layer at a time, for the inputs that the dense block gave it. What its neighbours lost it cannot see: the
softmax, the gate and the residual stream lie between. Here all surviving weights w of a block move together to

    min_w  sum_t |f(x_t; w) - y_t|^2 / sum_t |y_t - x'_t|^2

x_t the hidden state of token t in front of the block, f the block, y_t the target, and x'_t what the dense block turned into y_t,
so that 1 is the error of leaving a dense block out. `target=dense`: y is the dense model's own state behind the block, so that a
block also makes up for what the blocks before it lost; `target=own`: what the dense block makes of the same x. Under
propagate=dense they are one.

How it descends is in tuning.py. The gradient of a removed weight is dropped, so that it stays at zero. Memory: one block's weights
five times in float32, and the activations of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..core import Site
from ..models import Block
from ..stream import Passage, Target
from ..tuning import Tuning


@dataclass(frozen=True)
class BlockTuning(Tuning):
    target: Target  # which outputs are matched

    def refine(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]) -> Mapping[str, float]:
        tuning = _Tuned(block, passage, keeps)
        weights, batches = [*tuning.free.values()], len(passage.inputs)
        tuned = self.tune("error", weights, tuning.slope, tuning.error, batches, block.index)
        tuning.write()
        return tuned.facts


class _Tuned:
    """A block whose pruned layers run with float32 copies of their weights."""

    def __init__(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]):
        self.block, self.passage = block, passage
        self.free = {site: block.layer(site).weight_OI.float().clone().requires_grad_() for site in keeps}
        self._keeps = keeps
        self._names = {site: f"{site.name.removeprefix(f'{block.name}.')}.weight" for site in keeps}
        self._fixed = {name: p.detach() for name, p in block.module.named_parameters()}  # norms, biases, routers
        # what it would cost to leave the block out
        self._scale = [_squares(y_BTI, x_BTI) for x_BTI, y_BTI in zip(passage.sources, passage.targets, strict=True)]
        self._mean = sum(self._scale) / len(self._scale)

    def loss(self, batch: int) -> Tensor:
        """Of one batch, a scalar. The mean over equal batches is the squared error relative to leaving the block out."""
        weights = dict(self._fixed)
        for site, weight_OI in self.free.items():
            kept_OI = weight_OI.to(self.block.layer(site).weight_OI.dtype)
            weights[self._names[site]] = self.block.linears[site].turned(kept_OI)

        def block(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.block.module, weights, args, kwargs)

        output_BTI = self.passage.calls[batch](block, self.passage.inputs[batch])
        return _squares(output_BTI, self.passage.targets[batch]) / self._mean

    @torch.no_grad()
    def error(self, batches: range) -> float:
        """sqrt of the squared error of some batches, relative to leaving the block out."""
        lost = sum(self.loss(batch).item() for batch in batches) * float(self._mean)
        return math.sqrt(lost / sum(float(self._scale[batch]) for batch in batches))

    def slope(self, batch: int) -> None:
        """The weights' gradients of one batch's loss; of a removed one none, so that it stays at zero."""
        with torch.enable_grad():
            self.loss(batch).backward()
        for site, weight_OI in self.free.items():
            if weight_OI.grad is not None:  # an expert that the batch does not reach
                weight_OI.grad.mul_(self._keeps[site])

    @torch.no_grad()
    def write(self) -> None:
        """Into the block."""
        for site, weight_OI in self.free.items():
            self.block.write(site, weight_OI)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).square().sum()

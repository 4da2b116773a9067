"""Block reconstruction (arXiv 2406.15524): tunes the survivors of a block until its outputs are close to those of the dense block.

A corrector changes one layer at a time, for the inputs of the dense block. It does not know the errors of the other layers, from
which the softmax, the gate and the residual stream separate it. Here all surviving weights w of a block are tuned together:

    min_w  sum_t |f(x_t; w) - y_t|^2 / sum_t |y_t - x'_t|^2

with x_t the hidden state of token t in front of the block, f the block, y_t the target, and x'_t the input for which the dense
block gives y_t. The error of skipping the dense block is therefore 1. `target=dense`: y is the hidden state of the dense model
behind the block, so the block also compensates for the errors of the blocks before it. `target=own`: y is the output of the dense
block for the same x. With propagate=dense the two are equal.

The descent is in tuning.py. The gradient of a removed weight is set to zero, so the weight stays zero. Memory: the weights of one
block five times in float32, and the activations of one batch.
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
    """The refinement by block reconstruction."""

    target: Target  # which outputs are matched

    def refine(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]) -> Mapping[str, float]:
        tuning = _Tuned(block, passage, keeps)
        weights, batches = [*tuning.free.values()], len(passage.inputs)
        tuned = self.tune("error", weights, tuning.slope, tuning.error, batches, block.index)
        tuning.write()
        return tuned.facts


class _Tuned:
    """A block that runs with float32 copies of the weights of its pruned layers."""

    def __init__(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]):
        self.block, self.passage = block, passage
        self.free = {site: block.layer(site).weight_OI.float().clone().requires_grad_() for site in keeps}
        self._keeps = keeps
        self._names = {site: f"{site.name.removeprefix(f'{block.name}.')}.weight" for site in keeps}
        self._fixed = {name: p.detach() for name, p in block.module.named_parameters()}  # norms, biases, routers
        # the squared error of skipping the dense block
        self._scale = [_squares(y_BTI, x_BTI) for x_BTI, y_BTI in zip(passage.sources, passage.targets, strict=True)]
        self._mean = sum(self._scale) / len(self._scale)

    def loss(self, batch: int) -> Tensor:
        """The loss of one batch, a scalar. Its mean over batches of one size is the squared relative error."""
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
        """The relative error of some batches: the root of their squared error over that of skipping the dense block."""
        lost = sum(self.loss(batch).item() for batch in batches) * float(self._mean)
        return math.sqrt(lost / sum(float(self._scale[batch]) for batch in batches))

    def slope(self, batch: int) -> None:
        """Set the weights' gradients for the loss of one batch. Removed weights get the gradient 0, so they stay zero."""
        with torch.enable_grad():
            self.loss(batch).backward()
        for site, weight_OI in self.free.items():
            if weight_OI.grad is not None:  # None for an expert that gets no token of the batch
                weight_OI.grad.mul_(self._keeps[site])

    @torch.no_grad()
    def write(self) -> None:
        """Write the tuned weights into the block."""
        for site, weight_OI in self.free.items():
            self.block.write(site, weight_OI)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).square().sum()

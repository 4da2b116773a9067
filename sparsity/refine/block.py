"""Tune the survivors of a whole block until it puts out what the dense block did: block reconstruction (arXiv 2406.15524).

A corrector repairs one layer at a time, for the inputs that the dense block gave it. What its neighbours lost it cannot see: the
softmax, the gate and the residual stream lie between. Here all surviving weights w of a block move together to

    min_w  sum_t |f(x_t; w) - y_t|^2 / sum_t |y_t - x'_t|^2

x_t the hidden state of token t in front of the block, f the block, y_t the target, and x'_t what the dense block turned into y_t,
so that 1 is the error of leaving a dense block out. `target=dense`: y is the dense model's own state behind the block, so that a
block also makes up for what the blocks before it lost; `target=own`: what the dense block makes of the same x. Under
propagate=dense they are one.

Adam (arXiv 1412.6980) on float32 copies, a batch of the calibration a step, its rate falling to zero along a cosine. The gradient
of a removed weight is zero by construction: the block runs with w * keep. The last `held_out` of the sequences are not tuned on;
the weights that are kept are those of the epoch with the smallest error there, which may be the ones that were given, and the
tuning stops when `patience` epochs brought no better. (The layers' statistics saw those sequences, so the error given there
is flattered, and what is kept is not.) Memory: one block's weights four times in float32, and the activations of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ..core import Site, UserError
from ..models import Block
from ..stream import Passage, Target

WARM = 0.1  # of the steps, in which the rate rises from zero


@dataclass(frozen=True)
class BlockTuning:
    target: Target  # which outputs are matched
    epochs: int  # at most, >= 1
    lr: float  # of Adam at its highest, > 0: about how far a weight moves in a step
    held_out: float  # share of the batches that is not tuned on, in [0, 1); one batch at least, if it is not 0
    patience: int  # epochs without a smaller error there after which it stops, >= 1
    seed: int  # of the order of the batches

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UserError(f"epochs={self.epochs} is out of range: expected a whole number >= 1, such as 8")
        if not self.lr > 0:
            raise UserError(f"lr={self.lr} is out of range: expected a number above 0, such as 0.001")
        if not 0 <= self.held_out < 1:
            raise UserError(f"held_out={self.held_out} is out of range: expected a share in [0, 1), such as 0.125")
        if self.patience < 1:
            raise UserError(f"patience={self.patience} is out of range: expected a whole number >= 1, such as 2")

    def check(self, sequences: int, batch_size: int) -> None:
        batches = math.ceil(sequences / batch_size)
        if self._tuned(batches) < 1:
            raise UserError(
                f"{sequences} calibration sequences are {batches} batches of {batch_size}, and refine.held_out={self.held_out} "
                f"leaves none to tune on: expected two batches at least. Set calibration.batch_size=1, or refine.held_out=0"
            )

    def _tuned(self, batches: int) -> int:
        """How many of the batches are tuned on; the others follow them."""
        return batches - math.ceil(self.held_out * batches)

    def refine(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]) -> Mapping[str, float]:
        tuning = _Tuning(block, passage, keeps)
        tuned = self._tuned(len(passage.inputs))
        seen, unseen = range(tuned), range(tuned, len(passage.inputs))
        judged = unseen or seen
        steps = self.epochs * tuned
        optimizer = torch.optim.Adam([*tuning.free.values()], lr=self.lr)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
        generator = torch.Generator().manual_seed(
            self.seed + block.index
        )  # a block apart, so that a run can go on here

        before, given = tuning.error(seen), tuning.error(judged)
        best, at, kept, epoch = given, 0, tuning.copy(), 0
        for epoch in range(1, self.epochs + 1):
            for batch in torch.randperm(tuned, generator=generator).tolist():
                optimizer.zero_grad(set_to_none=True)
                with torch.enable_grad():
                    tuning.loss(batch).backward()
                optimizer.step()
                rate.step()
            found = tuning.error(judged)
            if found < best:
                best, at, kept = found, epoch, tuning.copy()
            if epoch - at >= self.patience:
                break
        tuning.write(kept)
        facts = {"error_before": before, "error": tuning.error(seen), "epochs": float(epoch), "kept_epoch": float(at)}
        return facts | ({"held_out_before": given, "held_out": best} if unseen else {})


class _Tuning:
    """A block whose pruned layers run with float32 copies of their weights."""

    def __init__(self, block: Block, passage: Passage, keeps: Mapping[Site, Tensor]):
        self.block, self.passage = block, passage
        self.free = {site: block.layer(site).weight_OI.float().clone().requires_grad_() for site in keeps}
        self._keeps = {site: keep_OI.to(torch.float32) for site, keep_OI in keeps.items()}
        self._names = {site: f"{site.name.removeprefix(f'{block.name}.')}.weight" for site in keeps}
        self._fixed = {name: p.detach() for name, p in block.module.named_parameters()}  # norms, biases, routers
        # what it would cost to leave the block out
        self._scale = [_squares(y_BTI, x_BTI) for x_BTI, y_BTI in zip(passage.sources, passage.targets, strict=True)]
        self._mean = sum(self._scale) / len(self._scale)

    def loss(self, batch: int) -> Tensor:
        """Of one batch, a scalar. The mean over equal batches is the squared error relative to leaving the block out."""
        weights = dict(self._fixed)
        for site, weight_OI in self.free.items():
            kept_OI = (weight_OI * self._keeps[site]).to(self.block.layer(site).weight_OI.dtype)
            weights[self._names[site]] = kept_OI.T if self.block.linears[site].transposed else kept_OI

        def block(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.block.module, weights, args, kwargs)

        output_BTI = self.passage.calls[batch](block, self.passage.inputs[batch])
        return _squares(output_BTI, self.passage.targets[batch]) / self._mean

    @torch.no_grad()
    def error(self, batches: range) -> float:
        """sqrt of the squared error of some batches, relative to leaving the block out."""
        lost = sum(self.loss(batch).item() for batch in batches) * float(self._mean)
        return math.sqrt(lost / sum(float(self._scale[batch]) for batch in batches))

    def copy(self) -> dict[Site, Tensor]:
        return {site: weight_OI.detach().clone() for site, weight_OI in self.free.items()}

    @torch.no_grad()
    def write(self, weights: Mapping[Site, Tensor]) -> None:
        """Into the block. What the optimizer left is replaced too."""
        for site, weight_OI in weights.items():
            self.free[site].copy_(weight_OI)
            self.block.write(site, weight_OI.masked_fill(self._keeps[site] == 0, 0))


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).square().sum()


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(round(WARM * steps), 1)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))

"""Gradient descent on the surviving weights, shared by `refine` and `recover`. The caller supplies the cost of a batch.

Adam (arXiv 1412.6980) on float32 weights, one batch per step. The learning rate rises over the first steps and falls to zero
along a cosine. The last share `held_out` of the batches is not used for steps. The epoch with the lowest cost on these batches is
kept; 0 means that the weights stay unchanged. Tuning stops after `patience` epochs without improvement. (The layers' statistics
were computed on the held-out batches too, so the cost there is a little too low, before and after tuning.) Memory: the weights,
their gradients, Adam's two moments, and the weights of the best epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from .core import UserError
from .ranges import Range, Seed, checked

Epochs = Annotated[int, Range(least=1, cap=10**5, such=8)]
Rate = Annotated[float, Range(above=0, most=1, such=0.001)]
Part = Annotated[float, Range(least=0, below=1, such=0.125)]

WARM = 0.1  # share of the steps in which the learning rate rises from zero


class Tuned(NamedTuple):
    """The result of a tuning."""

    # the cost before and after, on as many tuned batches as are held out; the numbers of epochs; the cost of the held-out batches
    facts: dict[str, float]
    costs: list[float]  # the cost on the held-out batches before tuning and after every epoch
    kept: int  # the epoch whose weights are kept; 0: unchanged


@dataclass(frozen=True)
@checked
class Tuning:
    """The options of gradient descent on surviving weights, and the descent itself."""

    epochs: Epochs  # at most
    lr: Rate  # of Adam at its highest: about how far a weight moves in a step
    held_out: Part  # share of the batches that is not tuned on; one batch at least, if it is not 0
    patience: Epochs  # without a smaller cost there, after which it stops
    seed: Seed  # of the order of the batches

    def check(self, sequences: int, batch_size: int) -> None:
        """Raise `UserError` if a calibration text of `sequences` sequences, in batches of `batch_size`, is not enough."""
        batches = math.ceil(sequences / batch_size)
        if not self.split(batches)[0]:
            raise UserError(
                f"{sequences} calibration sequences are {batches} batches of {batch_size}, and held_out={self.held_out} leaves "
                f"none to tune on: expected two batches at least. Set calibration.batch_size=1, or held_out=0"
            )

    def split(self, batches: int) -> tuple[range, range]:
        """The batches for steps, and the batches that decide which epoch is kept: all of them if none is held out."""
        tuned = batches - math.ceil(self.held_out * batches)
        return range(tuned), range(tuned, batches) if tuned < batches else range(batches)

    def passes(self, batches: int) -> int:
        """The largest number of forward passes of a batch. A backward pass counts as two."""
        seen, judged = map(len, self.split(batches))
        return 3 * self.epochs * seen + (self.epochs + 1) * judged + 2 * min(seen, judged)

    def tune(
        self,
        name: str,
        weights: Sequence[Tensor],
        slope: Callable[[int], None],
        cost: Callable[[range], float],
        batches: int,
        run: int = 0,
    ) -> Tuned:
        """Tune the float32 `weights` in place, and leave the weights of the best epoch in them.

        `name`: the name of the cost in the facts; `slope`: sets the weights' gradients from one batch; `cost`: the current cost
        of some batches; `run`: the number of this tuning among several, which changes the order of the batches.
        """
        seen, judged = self.split(batches)
        # As many batches as are held out, next to them: if only the cost of these falls, the weights overfit.
        sample = seen[-len(judged) :]
        before = cost(sample)
        costs, kept = self._descend(weights, slope, lambda: cost(judged), seen, run)
        facts = {
            f"{name}_before": before,
            name: cost(sample),
            "epochs": float(len(costs) - 1),
            "kept_epoch": float(kept),
        }
        if judged != seen:
            facts |= {"held_out_before": costs[0], "held_out": costs[kept]}
        return Tuned(facts, costs, kept)

    def _descend(
        self,
        weights: Sequence[Tensor],
        slope: Callable[[int], None],
        cost: Callable[[], float],
        batches: range,
        run: int,
    ) -> tuple[list[float], int]:
        """The cost before tuning and after every epoch, and the epoch whose weights are kept."""
        optimizer = torch.optim.Adam(weights, lr=self.lr, fused=True)  # one pass over memory, not a dozen
        steps = self.epochs * len(batches)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
        generator = torch.Generator().manual_seed(self.seed + run)  # per run: a resumed program can begin at any
        costs, best, kept = [cost()], 0, _copies(weights)
        for epoch in range(1, self.epochs + 1):
            for at in torch.randperm(len(batches), generator=generator).tolist():
                optimizer.zero_grad(set_to_none=True)
                slope(batches[at])
                optimizer.step()
                rate.step()
            costs.append(cost())
            if costs[-1] < costs[best]:
                best, kept = epoch, _copies(weights)
            if epoch - best >= self.patience:
                break
        with torch.no_grad():
            for weight, copy in zip(weights, kept, strict=True):
                weight.copy_(copy)
        return costs, best


def _copies(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(round(WARM * steps), 1)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))

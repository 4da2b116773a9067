"""Gradient descent on the surviving weights, shared by `refine` and `recover`. The caller supplies the cost of a batch.

Adam (arXiv 1412.6980) on float32 weights, one batch per step. The learning rate rises over the first steps and falls to zero
along a cosine. The last share `held_out` of the batches is not used for steps. The epoch with the lowest cost on these batches is
kept; 0 means that the weights stay unchanged. Tuning stops after `patience` epochs without improvement. (The layers' statistics
were computed on the held-out batches too, so the cost there is a little too low, before and after tuning.) Memory: the weights,
their gradients, Adam's two moments, and the weights of the best epoch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from .core import UserError
from .notes import NO_NOTES, Note, Notes
from .ranges import Range, Seed, checked

Epochs = Annotated[int, Range(least=1, cap=10**5, such=8)]
Rate = Annotated[float, Range(above=0, most=1, such=0.001)]
Part = Annotated[float, Range(least=0, below=1, such=0.125)]

WARM = 0.1  # of the steps, in which the rate rises from zero
EVERY = 300.0  # seconds between two notes within an epoch: a note may be as large as the model


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
        notes: Notes = NO_NOTES,
    ) -> Tuned:
        """Tune the float32 `weights` in place, and leave the weights of the best epoch in them.

        `name`: of the cost; `slope`: sets the weights' gradients from one batch; `cost`: what they cost now on some batches; `run`:
        which one of several tunings; `notes`: where an interrupted tuning noted how far it was.
        """
        seen, judged = self.split(batches)
        # As many batches as are held out, next to them: if only the cost of these falls, the weights overfit.
        sample = seen[-len(judged) :]
        descent = _Descent(self, weights, notes)
        if not descent.costs:
            descent.before, descent.costs, descent.best = cost(sample), [cost(judged)], _copies(weights)
        descent.run(slope, lambda: cost(judged), self._order(seen, run), len(seen))
        facts = {
            f"{name}_before": descent.before,
            name: cost(sample),
            "epochs": float(len(descent.costs) - 1),
            "kept_epoch": float(descent.kept),
        }
        if judged != seen:
            facts |= {"held_out_before": descent.costs[0], "held_out": descent.costs[descent.kept]}
        return Tuned(facts, descent.costs, descent.kept)

    def _order(self, batches: range, run: int) -> list[int]:
        """The batch of every step, each epoch in an order of its own."""
        generator = torch.Generator().manual_seed(self.seed + run)  # a run apart, so that one can go on at any of them
        epochs = (torch.randperm(len(batches), generator=generator) for _ in range(self.epochs))
        return [batches[at] for order in epochs for at in order.tolist()]


class _Descent:
    """Adam's way down, and how far it is. It resumes at its newest note, to the last bit."""

    def __init__(self, tuning: Tuning, weights: Sequence[Tensor], notes: Notes):
        self.weights, self._tuning, self._notes = weights, tuning, notes
        self._optimizer = torch.optim.Adam(weights, lr=tuning.lr, fused=True)  # one pass over memory, not a dozen
        self.taken = 0  # steps
        self.before = math.nan  # the cost of the sample at the start
        self.costs: list[float] = []  # before and after every epoch
        self.kept = 0  # the epoch that cost least
        self.best: list[Tensor] = []  # its weights
        for note in notes.read()[-1:]:
            self._resume(note)

    def run(self, slope: Callable[[int], None], cost: Callable[[], float], order: Sequence[int], epoch: int) -> None:
        """Take the steps that are left, each from the gradients of one batch of `order`; `epoch`: steps in an epoch.

        At the end the weights are those of the epoch that cost least.
        """
        noted = time.monotonic()
        while self.taken < len(order):
            for group in self._optimizer.param_groups:
                group["lr"] = self._tuning.lr * _share_of_rate(self.taken, len(order))
            self._optimizer.zero_grad(set_to_none=True)
            slope(order[self.taken])
            self._optimizer.step()
            self.taken += 1
            ended = self.taken % epoch == 0
            if ended and self._enough(cost()):
                break
            if self.taken < len(order) and (ended or time.monotonic() - noted >= EVERY):
                self._note()
                noted = time.monotonic()
        with torch.no_grad():
            for weight, best in zip(self.weights, self.best, strict=True):
                weight.copy_(best)

    def _enough(self, cost: float) -> bool:
        """Record the cost of an epoch; whether too many have brought nothing."""
        self.costs.append(cost)
        epoch = len(self.costs) - 1
        if cost < self.costs[self.kept]:
            self.kept, self.best = epoch, _copies(self.weights)
        return epoch - self.kept >= self._tuning.patience

    def _note(self) -> None:
        tensors: dict[str, Tensor] = {}
        for i, (weight, best) in enumerate(zip(self.weights, self.best, strict=True)):
            state = self._optimizer.state.get(weight, {})  # a weight that no batch has reached has none
            tensors |= {f"{i}.weight": weight.detach(), f"{i}.best": best}
            tensors |= {f"{i}.adam.{name}": value for name, value in state.items()}
        about = {"taken": self.taken, "before": self.before, "costs": self.costs, "kept": self.kept}
        self._notes.replace(about, tensors)

    @torch.no_grad()
    def _resume(self, note: Note) -> None:
        about, tensors = note
        self.taken, self.before, self.costs, self.kept = (about[key] for key in ("taken", "before", "costs", "kept"))
        self.best = [tensors[f"{i}.best"].to(weight.device) for i, weight in enumerate(self.weights)]
        for i, weight in enumerate(self.weights):
            weight.copy_(tensors[f"{i}.weight"])
            mine = f"{i}.adam."
            state = {name.removeprefix(mine): value for name, value in tensors.items() if name.startswith(mine)}
            if state:
                self._optimizer.state[weight] = {name: value.to(weight.device) for name, value in state.items()}


def _copies(weights: Sequence[Tensor]) -> list[Tensor]:
    return [weight.detach().clone() for weight in weights]


def _share_of_rate(step: int, steps: int) -> float:
    warm = max(round(WARM * steps), 1)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))

"""Tune all surviving weights of the model together towards the dense model's predictions (distillation, arXiv 1503.02531):

    min_w  mean_n  sum_v p_n(v) (log p_n(v) - log q_n(v; w)),    p dense, q pruned, n over the calibration text's positions

There are no labels: the target for each token is the dense model's whole distribution, so that little text is enough. Later blocks
can correct errors of earlier ones, and errors that change no prediction are not corrected.

The descent is in tuning.py. The gradient with respect to the logits is q - p; it goes back through the head a few positions at a
time (predictions.py), and then through the blocks. The gradient of a removed weight is set to zero, so that the weight stays zero.
Memory: the whole model on the device, its pruned layers five times in float32 (a float32 model is one of the five), and the
activations of one batch: of all blocks, or with `recompute` of one block, which takes a second forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core import Site
from ..models import Decoder
from ..notes import NO_NOTES, Notes
from ..predictions import POSITIONS, divergence, slope
from ..tuning import Tuning
from .base import Recovered, Taught


@dataclass(frozen=True)
class Distillation(Tuning):
    """The recovery by distillation from the dense model's predictions."""

    positions: ClassVar[int] = POSITIONS

    recompute: bool  # compute activations again when their gradient is needed, instead of keeping them

    @property
    def reads_text(self) -> bool:
        return True

    def teach(self, dense: Decoder, batches: Sequence[Tensor], head: bool) -> Taught:
        outside = {name: p.to("cpu", copy=True) for name, p in dense.outside().items()} if head else {}
        return Taught([hidden_BTI.cpu() for hidden_BTI in dense.hidden_of(batches)], outside)

    def recover(
        self,
        pruned: Decoder,
        keeps: Mapping[Site, Tensor],
        batches: Sequence[Tensor],
        taught: Taught,
        notes: Notes = NO_NOTES,
    ) -> Recovered:
        student = _Student(pruned, keeps, batches, taught, self.recompute)
        with student.learning():
            tuned = self.tune("kl", student.weights, student.slope, student.divergence, len(batches), notes=notes)
        rows = [{"epoch": epoch, "kl": kl, "kept": epoch == tuned.kept} for epoch, kl in enumerate(tuned.costs)]
        return Recovered(tuned.facts, rows)


class _Student:
    """The pruned model with float32 weights to tune: copies, or the model's own weights if they are float32."""

    def __init__(
        self, decoder: Decoder, keeps: Mapping[Site, Tensor], batches: Sequence[Tensor], taught: Taught, recompute: bool
    ):
        self.decoder, self.batches, self.recompute = decoder, batches, recompute
        self.dense = [hidden_BTI.to(decoder.device) for hidden_BTI in taught.hidden]
        self.outside = {name: p.to(decoder.device) for name, p in taught.outside.items()}
        linears = {site: decoder.blocks[site.block].linears[site] for site in keeps}
        self._free = [linear.weight for linear in linears.values()]
        self._keeps = [linear.turned(keeps[site]) for site, linear in linears.items()]
        self.weights = [parameter.detach().float() for parameter in self._free]

    @contextmanager
    def learning(self) -> Iterator[None]:
        """A context in which the pruned layers take gradients. At its end the model holds the tuned weights."""
        for parameter in self._free:
            parameter.requires_grad_()
        try:
            yield
        finally:
            self._settle()
            for parameter in self._free:
                parameter.requires_grad_(False)

    def slope(self, batch: int) -> None:
        """Set the weights' gradients (`weight.grad`) to those of one batch's mean divergence."""
        self._settle()
        ids_BT = self.batches[batch]
        with torch.enable_grad():
            hidden_BTI, calls = self.decoder.record(ids_BT)
            for block, call in zip(self.decoder.blocks, calls, strict=True):
                run = partial(call, block.module)
                hidden_BTI = checkpoint(run, hidden_BTI, use_reentrant=False) if self.recompute else run(hidden_BTI)
        hidden_BTI.backward(slope(self.decoder, ids_BT, self.dense[batch], hidden_BTI.detach(), self.outside))
        for weight, parameter, keep in zip(self.weights, self._free, self._keeps, strict=True):
            # an expert that gets no token of the batch has no gradient
            weight.grad = None if parameter.grad is None else parameter.grad.float().mul_(keep)
            parameter.grad = None

    @torch.no_grad()
    def divergence(self, batches: range) -> float:
        """The mean divergence over some batches, in nats per predicted token."""
        self._settle()
        total, tokens = 0.0, 0
        judged = [self.batches[batch] for batch in batches]
        for batch, ids_BT, hidden_BTI in zip(batches, judged, self.decoder.hidden_of(judged), strict=True):
            total += divergence(self.decoder, ids_BT, self.dense[batch], hidden_BTI, self.outside)[0].sum().item()
            tokens += ids_BT.shape[0] * (ids_BT.shape[1] - 1)
        return total / tokens

    @torch.no_grad()
    def _settle(self) -> None:
        """Copy the tuned weights into the model, in its dtype."""
        for weight, parameter in zip(self.weights, self._free, strict=True):
            if weight.dtype != parameter.dtype:
                parameter.copy_(weight)

"""Perplexity = exp(mean NLL) over non-overlapping windows of the evaluation text, in nats per predicted token.

Perplexities are comparable only at the same window length. The NLL of every window is kept, so that two models can be compared
window by window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..evaluator import Measured, Model
from ..measures import Measure
from ..notes import NO_NOTES, Notes, part_by_part
from .windows import Windowed


def nll(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Mean negative log-likelihood per predicted token of each sequence, in nats, float64 (B,) on the CPU. Computed in float32."""
    targets_BT = ids_BT.to(logits_BTV.device)
    rows = [  # one sequence at a time, because the float32 copy and the log-softmax are as large as the logits
        functional.cross_entropy(logits_TV[:-1].float(), target_T[1:])
        for logits_TV, target_T in zip(logits_BTV, targets_BT, strict=True)
    ]
    return torch.stack(rows).cpu().double()


def perplexity(nll_W: Tensor) -> float:
    """The perplexity exp(mean of the NLLs) of windows (W,) that predict equally many tokens."""
    return nll_W.mean().exp().item()


@dataclass(frozen=True)
class Perplexity(Windowed):
    """The evaluator of perplexity."""

    def reference(self, dense: Model, ids_N: Tensor, notes: Notes = NO_NOTES) -> Mapping[str, Tensor]:
        return {"nll": self._nll(dense, ids_N, "dense", notes)}

    def compare(
        self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor], notes: Notes = NO_NOTES
    ) -> Measured:
        dense_W, pruned_W = reference["nll"], self._nll(pruned, ids_N, "pruned", notes)
        summary = {"dense": perplexity(dense_W), "pruned": perplexity(pruned_W)}
        measures = [Measure(which, value, "", "smaller", f"ppl {which}") for which, value in summary.items()]
        return self.measured("windows", summary, {"nll_dense": dense_W, "nll_pruned": pruned_W}, measures)

    def _nll(self, model: Model, ids_N: Tensor, which: str, notes: Notes) -> Tensor:
        def each(batches: Sequence[Tensor]) -> Iterator[Tensor]:
            logits = model.logits_of(batches)
            for ids_BT in batches:
                yield nll(next(logits), ids_BT)  # one batch's logits at a time

        nll_W = torch.cat([*part_by_part(notes, self.batches(ids_N), each)])
        self.check_finite(nll_W, f"the {which} model's NLL", model, ids_N)
        return nll_W

"""Perplexity = exp(mean NLL) over non-overlapping windows of the evaluation text, in nats per predicted token.

Perplexities compare only at one window length. Every window's NLL is kept, so models can be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..core import Measured, Model
from ..notes import NO_NOTES, Notes, part_by_part
from .windows import Windowed


def nll(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Mean negative log-likelihood per predicted token of each sequence, float64 (B,) on the CPU. Logits are read in float32."""
    targets_BT = ids_BT.to(logits_BTV.device)
    rows = [  # one sequence at a time: the float32 copy and the log-softmax are as large as its logits
        functional.cross_entropy(logits_TV[:-1].float(), target_T[1:])
        for logits_TV, target_T in zip(logits_BTV, targets_BT, strict=True)
    ]
    return torch.stack(rows).cpu().double()


def perplexity(nll_W: Tensor) -> float:
    """exp(mean) of the windows' mean NLLs; the windows predict equally many tokens."""
    return nll_W.mean().exp().item()


@dataclass(frozen=True)
class Perplexity(Windowed):
    def reference(self, dense: Model, ids_N: Tensor, notes: Notes = NO_NOTES) -> Mapping[str, Tensor]:
        return {"nll": self._nll(dense, ids_N, "dense", notes)}

    def compare(
        self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor], notes: Notes = NO_NOTES
    ) -> Measured:
        dense_W, pruned_W = reference["nll"], self._nll(pruned, ids_N, "pruned", notes)
        summary = {"dense": perplexity(dense_W), "pruned": perplexity(pruned_W)}
        return self.measured("windows", summary, {"nll_dense": dense_W, "nll_pruned": pruned_W})

    def _nll(self, model: Model, ids_N: Tensor, which: str, notes: Notes) -> Tensor:
        def each(batches: Sequence[Tensor]) -> Iterator[Tensor]:
            logits = model.logits_of(batches)
            for ids_BT in batches:
                yield nll(next(logits), ids_BT)  # one batch's logits at a time

        nll_W = torch.cat([*part_by_part(notes, self.batches(ids_N), each)])
        self.check_finite(nll_W, f"the {which} model's NLL", model, ids_N)
        return nll_W

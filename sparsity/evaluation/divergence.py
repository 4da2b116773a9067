"""The divergence of the pruned model's predictions from those of the dense model, per predicted token n of the evaluation text:

    kl         mean over n of  sum_v p_n(v) (log p_n(v) - log q_n(v)),   p dense, q pruned; nats, >= 0, 0 for equal models
    agreement  share of the n at which p and q have the same most likely token, in [0, 1]

It is far more sensitive than perplexity, which uses one token of each distribution, and in which gains and losses cancel. Of the
dense model, the hidden states behind the last block are kept, and the parameters outside the blocks, which turn them into logits.
The logits of both models exist for a few positions at a time, never for a whole text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core import UserError
from ..evaluator import Measured, Model
from ..measures import Measure
from ..notes import NO_NOTES, Notes, part_by_part
from ..predictions import divergence
from .windows import Windowed

TAIL = "outside."  # prefix of the parameters among the tensors of `reference`


@dataclass(frozen=True)
class Divergence(Windowed):
    """The evaluator of the divergence from the dense model's predictions."""

    keeps_states: ClassVar[bool] = True

    def reference(self, dense: Model, ids_N: Tensor, notes: Notes = NO_NOTES) -> Mapping[str, Tensor]:
        def each(batches: Sequence[Tensor]) -> Iterator[Tensor]:
            return (hidden_BTI.cpu() for hidden_BTI in dense.hidden_of(batches))

        hidden_WTI = torch.cat([*part_by_part(notes, self.batches(ids_N), each)])
        self.check_finite(hidden_WTI.double().mean((1, 2)), "the dense model's mean hidden state", dense, ids_N)
        outside = {f"{TAIL}{name}": value.detach().cpu() for name, value in dense.outside().items()}
        return {"hidden": hidden_WTI, **outside}

    def compare(
        self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor], notes: Notes = NO_NOTES
    ) -> Measured:
        outside = {  # to the device once: every piece of every window needs them
            name.removeprefix(TAIL): value.to(pruned.device)
            for name, value in reference.items()
            if name.startswith(TAIL)
        }
        windows = [*zip(self.batches(ids_N), reference["hidden"].split(self.batch_size), strict=True)]

        def each(left: Sequence[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
            hidden = pruned.hidden_of([ids_BT for ids_BT, _ in left])
            for (ids_BT, dense_BTI), pruned_BTI in zip(left, hidden, strict=True):
                yield torch.stack(_of_batch(pruned, ids_BT, dense_BTI, pruned_BTI, outside))

        kl_W, agreement_W = torch.cat([*part_by_part(notes, windows, each)], dim=1) / (self.seqlen - 1)
        self.check_finite(kl_W, "the divergence", pruned, ids_N)
        columns = {"kl": kl_W, "agreement": agreement_W}
        kl, agreement = kl_W.mean().item(), agreement_W.mean().item()
        measures = [
            Measure("kl", kl, "nats", "smaller", digits=4),
            Measure("agreement", agreement, "fraction", "larger"),
        ]
        return self.measured("divergence", {"kl": kl, "agreement": agreement}, columns, measures)


def _of_batch(
    pruned: Model, ids_BT: Tensor, dense_BTI: Tensor, pruned_BTI: Tensor, outside: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The sums of kl and of agreement over the predicting positions of each window, (B,) each.

    Raises `UserError` if the hidden states of the two models have different widths.
    """
    if (was := dense_BTI.shape[-1]) != (width := pruned_BTI.shape[-1]):
        raise UserError(
            f"divergence puts the reference's hidden states, of width {was}, into this model's head, which takes width {width}: "
            f"expected models of one architecture. Choose another reference, or leave out divergence"
        )
    return divergence(pruned, ids_BT, dense_BTI, pruned_BTI, outside)

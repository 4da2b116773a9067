"""The texts that both models generate: greedy continuations of the same prompts, and the number of tokens they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from ..core import UserError
from ..evaluator import Measured, Model
from ..measures import Measure
from ..notes import NO_NOTES, Notes
from ..ranges import Filled, Range, Text, checked
from .packing import pack, unpack


@dataclass(frozen=True)
@checked
class Generation:
    """The evaluator that shows generated texts of both models side by side."""

    reads_text: ClassVar[bool] = False
    remembers: ClassVar[bool] = True
    streams: ClassVar[bool] = False

    prompts: Annotated[list[Annotated[str, Text(r".*\S.*", "not empty")]], Filled()]
    max_new_tokens: Annotated[int, Range(least=1, cap=10**4, such=48)]

    def files(self) -> Sequence[Path]:
        return ()

    def check(self, ids_N: Tensor) -> None:
        """Accepts every text: none is read."""

    def reference(self, dense: Model, ids_N: Tensor, notes: Notes = NO_NOTES) -> Mapping[str, Tensor]:
        return {"written": pack(self._written(dense))}

    def compare(
        self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor], notes: Notes = NO_NOTES
    ) -> Measured:
        dense, after = unpack(reference["written"]), self._written(pruned)
        rows = []
        for prompt, a, b in zip(self.prompts, dense, after, strict=True):
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
            texts = {which: pruned.tokenizer.decode(ids) for which, ids in (("dense", a), ("pruned", b))}
            rows.append({"prompt": prompt, **texts, "common_tokens": shared})
        common = sum(row["common_tokens"] for row in rows) / len(rows)
        summary = {"prompts": len(rows), "max_new_tokens": self.max_new_tokens, "common_tokens": common}
        return Measured(summary, "generations", rows, [Measure("common_tokens", common, "tokens", "larger", digits=1)])

    @torch.no_grad()
    def _written(self, model: Model) -> list[list[int]]:
        """The new token ids for each prompt: always the most likely token, until the end of text or `max_new_tokens`."""
        if model.tokenizer is None:
            raise UserError("this model has no tokenizer: expected one that encodes the prompts. Leave out generation")
        ends = model.model.generation_config.eos_token_id
        pad = ends[0] if isinstance(ends, list) else ends
        found = []
        for prompt in self.prompts:  # one at a time, because padding changes the results of some models
            asked = model.tokenizer(prompt, return_tensors="pt").to(model.device)
            ids_BT = model.model.generate(
                input_ids=asked["input_ids"],
                attention_mask=asked["attention_mask"],
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                pad_token_id=pad if pad is not None else 0,
            )
            found.append(ids_BT[0, asked["input_ids"].shape[1] :].tolist())
        return found

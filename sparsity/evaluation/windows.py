"""Shared parts of the evaluators that measure on windows of the evaluation text: non-overlapping windows of one length, in batches.

Window i is ids[i L : (i+1) L]. Each of its last L - 1 tokens is predicted from the tokens before it in the window. An incomplete
window at the end is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from ..core import UserError
from ..datasets.tokens import windows
from ..evaluator import Measured, Model
from ..measures import Measure
from ..ranges import Count, Tokens, checked


@dataclass(frozen=True)
@checked
class Windowed:
    """Base class of the evaluators that measure on windows of the evaluation text."""

    reads_text: ClassVar[bool] = True
    remembers: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    keeps_states: ClassVar[bool] = False  # the hidden states of the dense model's text are remembered

    seqlen: Tokens  # in a window
    windows: Count | None  # the first so many windows; None: all
    batch_size: Count  # windows in one forward pass

    def files(self) -> Sequence[Path]:
        return ()

    def check(self, ids_N: Tensor) -> None:
        windows(ids_N, self.seqlen, self.windows)

    def batches(self, ids_N: Tensor) -> tuple[Tensor, ...]:
        """The windows (B, T), B <= batch_size, in the order of the text."""
        batches: tuple[Tensor, ...] = windows(ids_N, self.seqlen, self.windows).split(self.batch_size)
        return batches

    def measured(
        self,
        table: str,
        summary: Mapping[str, float],
        columns: Mapping[str, Tensor],
        measures: Sequence[Measure] = (),
    ) -> Measured:
        """A summary with the protocol, its measures, and a row for each window with its value (W,) of every column."""
        each = self.seqlen - 1
        values = zip(*(value_W.tolist() for value_W in columns.values()), strict=True)
        rows = [{"window": i, "tokens": each, **dict(zip(columns, row, strict=True))} for i, row in enumerate(values)]
        protocol = {"seqlen": self.seqlen, "windows": len(rows), "tokens": len(rows) * each}
        return Measured({**summary, **protocol}, table, rows, measures)

    def check_finite(self, value_W: Tensor, what: str, model: Model, ids_N: Tensor) -> None:
        """Raise `UserError` with the window and the module if the value of a window is NaN or infinite."""
        if not value_W.isfinite().all():
            first = int((~value_W.isfinite()).nonzero()[0])
            ids_WT = windows(ids_N, self.seqlen, self.windows)
            raise UserError(
                f"{what} on evaluation window {first} is {value_W[first].item()}: expected a finite number. The "
                f"first NaN or infinity comes out of {model.culprit(ids_WT[first][None])}. Try dtype=float32, or check its weights"
            )

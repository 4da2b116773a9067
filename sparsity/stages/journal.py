"""What lets a run that was killed go on where it was: after every block a file with its weights, its masks and the rows of its
layers, and one with the hidden states in front of the next block. The first is written last, so that a block is in the journal
wholly or not at all; the hidden states before it are deleted only then. Both are written while the next block is pruned.

A journal speaks for a run of the same key under the same conditions, since it must end as if it had never been interrupted, to the
last bit. One that is damaged or of other conditions is named and deleted. A run that finished needs none.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cache.entry import Entry, content_of, entries, write
from ..core import UserError
from ..record.console import say
from ..record.store import JOURNAL

Row = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A block that was pruned."""

    rows: list[Row]
    refined: Mapping[str, float]  # what the refinement said of it
    seconds: Mapping[str, float]  # that the run had taken so far, by stage
    resumed: list[int]  # the blocks at which the run had been taken up again
    weights: Mapping[str, Tensor]  # by the names of the layers
    keeps: Mapping[str, Tensor]  # packed bits


class Journal:
    def __init__(self, run: Path, conditions: Mapping[str, Any]):
        self._run = run
        self.folder = run / JOURNAL
        self._conditions = dict(conditions)
        self._works = True
        self._writer = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None  # of the last block

    def read(self) -> tuple[int, list[Tensor]]:
        """How many blocks are done, the first ones without a gap, and the hidden states behind them. (0, []): none."""
        count = 0
        while (entry := self._entry(f"{count:03d}-")) is not None:
            with closing(entry):
                if changed := self._changed(entry.about["conditions"]):
                    say(f"{self.folder} was written under other conditions ({changed}): starting again")
                    break
            count += 1
        if count and (entry := self._entry(f"hidden-{count:03d}-")) is not None:
            with closing(entry):
                return count, [tensor for _, tensor in sorted(entry.tensors().items())]
        drop(self._run)
        return 0, []

    def block(self, index: int) -> Done:
        """One of those that `read` found."""
        entry = self._entry(f"{index:03d}-")
        if entry is None:
            raise UserError(f"{self.folder} changed while it was read: expected no other process there. Run it again")
        with closing(entry):
            parts: dict[str, dict[str, Tensor]] = {"weight": {}, "keep": {}}
            for name, tensor in entry.tensors().items():
                which, _, layer = name.partition(".")
                parts[which][layer] = tensor
            about = entry.about
            told = (about["rows"], about["refined"], about["seconds"], about["resumed"])
            return Done(*told, parts["weight"], parts["keep"])

    def _entry(self, key: str) -> Entry | None:
        return next(entries(self.folder, key), None)

    def _changed(self, conditions: Mapping[str, Any]) -> str:
        """ "threads 2, now 1", for what is not as it was."""
        names = dict.fromkeys([*conditions, *self._conditions])
        both = {name: (conditions.get(name), self._conditions.get(name)) for name in names}
        return "; ".join(f"{name} {was}, now {now}" for name, (was, now) in both.items() if was != now)

    def put(self, index: int, done: Done, hidden: Sequence[Tensor]) -> None:
        """Block `index` is done; `hidden` lies behind it. A journal that cannot be written is said so once, and ends.

        Neither may be changed in place from here on: they are read while the next block is pruned.
        """
        self.settle()
        if not self._works:
            return
        tensors = {f"weight.{name}": weight.cpu().contiguous() for name, weight in done.weights.items()}
        tensors |= {f"keep.{name}": keep for name, keep in done.keeps.items()}
        about = {
            "conditions": self._conditions,
            "rows": done.rows,
            "refined": done.refined,
            "seconds": done.seconds,
            "resumed": done.resumed,
        }
        states = {f"{i:06d}": batch.cpu().contiguous() for i, batch in enumerate(hidden)}
        self._written = self._writer.submit(self._write, index, states, tensors, about)

    def _write(
        self, index: int, states: Mapping[str, Tensor], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
    ) -> None:
        write(self.folder, f"hidden-{index + 1:03d}", content_of(states, {}))
        write(self.folder, f"{index:03d}", content_of(tensors, about))
        for old in self.folder.glob(f"hidden-{index:03d}-*"):
            old.unlink()

    def settle(self) -> None:
        """Wait until what was put is written."""
        written, self._written = self._written, None
        try:
            if written is not None:
                written.result()
        except OSError as error:
            self._works = False
            drop(self._run)
            say(f"no journal ({error.strerror}): if this run is interrupted, it will start again")

    def close(self) -> None:
        """Nothing is put any more."""
        self.settle()
        self._writer.shutdown()


def drop(run: Path) -> None:
    """The run of this folder needs no journal any more."""
    shutil.rmtree(run / JOURNAL, ignore_errors=True)

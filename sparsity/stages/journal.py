"""The journal of a run: files from which an interrupted run resumes. Its result is bitwise that of an uninterrupted run.

    000-...          a pruned block: its weights, its masks, the rows of its layers
    hidden-001-...   the hidden states at the input of the next block
    recover.000002-  a numbered note of a stage (`notes.Notes`); each tensor of a note has a file of its own

A block is written while the next one is pruned. Its own file is written last, so that a block is in the journal completely or not
at all; only then are the hidden states before it deleted. Notes are written at once.

A journal is valid for a run of the same key under the same conditions. A journal of other conditions, or a damaged one, is deleted,
which a line says. A finished run needs no journal.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from ..cache.entry import Entry, content_of, entries, write
from ..core import UserError
from ..notes import NO_NOTES, Note, Notes
from ..record.console import say
from ..record.store import JOURNAL

Row = dict[str, Any]


@dataclass(frozen=True)
class Done:
    """A pruned block, as the journal keeps it."""

    rows: list[Row]
    refined: Mapping[str, float]  # the numbers of the refinement
    seconds: Mapping[str, float]  # the run's time so far, by stage
    resumed: list[int]  # the blocks at which the run was resumed earlier
    weights: Mapping[str, Tensor]  # by the layers' names
    keeps: Mapping[str, Tensor]  # the masks as packed bits


class Journal:
    """The journal in the folder of one run. Reads and writes only entries of the same conditions."""

    def __init__(self, run: Path, conditions: Mapping[str, Any]):
        self._run = run
        self.folder = run / JOURNAL
        self._conditions = dict(conditions)
        self._works = True
        self._writer = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None  # the write of the last block

    def read(self) -> tuple[int, list[Tensor]]:
        """Return the number of blocks that are done, without a gap, and the hidden states after them; (0, []) for none."""
        blocks = 0
        while (entry := self._sound(f"{blocks:03d}-")) is not None:
            entry.close()
            blocks += 1
        if blocks and (entry := self._sound(f"hidden-{blocks:03d}-")) is not None:
            with closing(entry):
                return blocks, [tensor for _, tensor in sorted(entry.tensors().items())]
        if blocks:
            drop(self._run)
        return 0, []

    def block(self, index: int) -> Done:
        """Return one of the blocks that `read` counted."""
        entry = self._sound(f"{index:03d}-")
        if entry is None:
            raise UserError(f"{self.folder} changed while it was read: expected no other process there. Run it again")
        with closing(entry):
            parts: dict[str, dict[str, Tensor]] = {"weight": {}, "keep": {}}
            for name, tensor in entry.tensors().items():
                which, _, layer = name.partition(".")
                parts[which][layer] = tensor
            about = entry.about
            return Done(
                about["rows"],
                about["refined"],
                about["seconds"],
                about["resumed"],
                parts["weight"],
                parts["keep"],
            )

    def put(self, index: int, done: Done, hidden: Sequence[Tensor]) -> None:
        """Write block `index` and the hidden states after it. If the files cannot be written, the journal ends, which a line says.

        No tensor may be changed in place from here on: the files are written while the next block is pruned.
        """
        self.settle()
        if not self._works:
            return
        tensors = {f"weight.{name}": weight.cpu().contiguous() for name, weight in done.weights.items()}
        tensors |= {f"keep.{name}": keep for name, keep in done.keeps.items()}
        about = {"rows": done.rows, "refined": done.refined, "seconds": done.seconds, "resumed": done.resumed}
        states = {f"{i:06d}": batch.cpu().contiguous() for i, batch in enumerate(hidden)}
        self._written = self._writer.submit(self._write_block, index, states, tensors, about)

    def notes(self, stage: str) -> Notes:
        """Return the notes of a stage, or of a part of it: `recover`, `evaluate-dense-perplexity`."""
        return _Notes(self, stage)

    def settle(self) -> None:
        """Wait until the last block is written."""
        written, self._written = self._written, None
        try:
            if written is not None:
                written.result()
        except OSError as error:
            self._end(error)

    def close(self) -> None:
        """Wait until the last block is written. Nothing can be put after this."""
        self.settle()
        self._writer.shutdown()

    def _write_block(
        self, index: int, states: Mapping[str, Tensor], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
    ) -> None:
        self._write(f"hidden-{index + 1:03d}", states, {})
        self._write(f"{index:03d}", tensors, about)
        self._delete(f"hidden-{index:03d}-*")

    def _write(self, key: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        write(self.folder, key, content_of(tensors, {"conditions": self._conditions, **about}))

    def _delete(self, pattern: str) -> None:
        for old in self.folder.glob(pattern):
            old.unlink()

    def _sound(self, key: str) -> Entry | None:
        """Return the open file of this key. None if there is none, or if the journal was written under other conditions."""
        entry = next(entries(self.folder, key), None)
        if entry is not None and (changed := self._changed(entry.about["conditions"])):
            entry.close()
            drop(self._run)
            say(f"{self.folder} was written under other conditions ({changed}): starting again")
            return None
        return entry

    def _changed(self, conditions: Mapping[str, Any]) -> str:
        """Return the conditions that changed ("threads 2, now 1"); empty if none did."""
        names = dict.fromkeys([*conditions, *self._conditions])
        both = {name: (conditions.get(name), self._conditions.get(name)) for name in names}
        return "; ".join(f"{name} {was}, now {now}" for name, (was, now) in both.items() if was != now)

    def _end(self, error: OSError) -> None:
        self._works = False
        drop(self._run)
        say(f"no journal ({error.strerror}): if this run is interrupted, it will start again")


class _Notes:
    """The notes of one stage in the journal: a file `<stage>.<number>-...`, and `<stage>.<number>.<part>-...` for each tensor."""

    def __init__(self, journal: Journal, stage: str):
        self._journal, self._stage = journal, stage
        self._next = 0  # the number of the next note

    def read(self) -> list[Note]:
        notes = [*self._read()]
        self._next = notes[-1][0] + 1 if notes else 0
        self._forget_rest()
        return [note for _, note in notes]

    def add(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        journal, number = self._journal, self._next
        journal.settle()
        if not journal._works:
            return
        try:
            for part, (name, tensor) in enumerate(tensors.items()):  # one at a time: a note may be as large as a model
                journal._write(f"{self._stage}.{number:06d}.{part:06d}", {name: tensor.cpu().contiguous()}, {})
            # written last: without its own file a note does not count
            journal._write(f"{self._stage}.{number:06d}", {}, {"names": [*tensors], "note": dict(about)})
        except OSError as error:
            journal._end(error)
        self._next += 1

    def replace(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        earlier = self._next
        self.add(about, tensors)
        for number in range(earlier):
            self._journal._delete(f"{self._stage}.{number:06d}-*")
            self._journal._delete(f"{self._stage}.{number:06d}.*")

    def _forget_rest(self) -> None:
        """Delete what a kill or damage left behind the last complete note: new notes get these numbers, with other contents."""
        for left in self._journal.folder.glob(f"{self._stage}.??????[.-]*"):
            if int(left.name[len(self._stage) + 1 :][:6]) >= self._next:
                left.unlink()

    def _read(self) -> Iterator[tuple[int, Note]]:
        """Yield the number and the content of every complete note, from the oldest one to the first gap."""
        found = sorted(self._journal.folder.glob(f"{self._stage}.??????-*"))
        for number in count(int(found[0].name[len(self._stage) + 1 :][:6])) if found else ():
            entry = self._journal._sound(f"{self._stage}.{number:06d}-")
            if entry is None:
                return
            with closing(entry):
                about = entry.about
            tensors: dict[str, Tensor] = {}
            for part in range(len(about["names"])):
                piece = self._journal._sound(f"{self._stage}.{number:06d}.{part:06d}-")
                if piece is None:
                    return
                with closing(piece):
                    tensors |= piece.tensors()
            yield number, Note(about["note"], tensors)


class NoJournal:
    """The journal that keeps nothing and resumes nothing: for `journal=false`, and for all processes but the first."""

    def read(self) -> tuple[int, list[Tensor]]:
        return 0, []

    def block(self, index: int) -> Done:
        raise AssertionError("no block was counted")

    def put(self, index: int, done: Done, hidden: Sequence[Tensor]) -> None: ...

    def notes(self, stage: str) -> Notes:
        return NO_NOTES

    def settle(self) -> None: ...

    def close(self) -> None: ...


def drop(run: Path) -> None:
    """Delete the journal in the folder of this run."""
    shutil.rmtree(run / JOURNAL, ignore_errors=True)

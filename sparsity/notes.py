"""The notes of a long computation: its progress, from which it resumes after an interruption.

A note is a JSON value with named tensors. A computation whose state changes (a descent) keeps only the newest note. One that works
part by part (the windows of an evaluation) adds a note for every few parts. In a run the notes are files of its journal; in a
notebook there are none (`NO_NOTES`), and nothing is resumed. Notes never change a result: they only save time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

P = TypeVar("P")
EVERY = 30.0  # seconds between two notes of an evaluation, which an interruption may lose


class Note(NamedTuple):
    """A JSON value with named tensors."""

    about: Mapping[str, Any]
    tensors: Mapping[str, Tensor]  # on the CPU


class Notes(Protocol):
    """The notes of one computation."""

    def read(self) -> list[Note]:
        """Return the notes of the interrupted computation, oldest first. Empty if there was none."""
        ...

    def add(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep one more note. It is complete when this returns, so the tensors may be changed afterwards."""
        ...

    def replace(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep this note instead of all earlier ones, which are deleted only when it is complete."""
        ...


class NoNotes:
    """The notes that keep nothing."""

    def read(self) -> list[Note]:
        return []

    def add(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None: ...

    def replace(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None: ...


NO_NOTES = NoNotes()


def part_by_part(
    notes: Notes, parts: Sequence[P], compute: Callable[[Sequence[P]], Iterator[Tensor]], every: float = EVERY
) -> Iterator[Tensor]:
    """Yield the result of `compute` for each part, in order. Parts that were finished before an interruption come from the notes.

    `compute` is called once, with the parts that are left, and yields one CPU tensor for each. `every`: seconds between two notes.
    The last parts are not noted: the caller has all results then, and keeps them if they are valid.
    """
    finished = [note.tensors[name] for note in notes.read() for name in sorted(note.tensors)]
    yield from finished
    new: dict[str, Tensor] = {}
    noted = time.monotonic()
    left = parts[len(finished) :]
    for number, result in enumerate(compute(left) if left else (), start=len(finished)):
        new[f"{number:06d}"] = result
        if time.monotonic() - noted >= every:
            notes.add({}, new)
            new, noted = {}, time.monotonic()
        yield result

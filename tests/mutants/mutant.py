"""A mutant: one line of a file, the line that replaces it, and the tests that must then fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mutant."""

    name: str
    file: str
    line: str  # occurs exactly once in the file
    becomes: str
    tests: str

"""What a mutant is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    line: str  # occurs exactly once in the file
    becomes: str
    tests: str

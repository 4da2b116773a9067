"""A source of text: a calibration text and an evaluation text, which are never the same.

A source is a frozen value that holds no text; its `repr` is its configuration. Results record the hash of each text, because a text
can change while names, revisions and paths stay the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol


class TextSource(Protocol):
    """A calibration text and an evaluation text. Each is one string, which is tokenised later in one call."""

    def check(self) -> None:
        """Raise `UserError` for every mistake that can be seen without the network. Called before a model is loaded."""
        ...

    def files(self) -> list[Path]:
        """The local files that hold the texts. A finished run is repeated if one of them has changed."""
        ...

    def calibration_text(self) -> str:
        """The calibration text."""
        ...

    def evaluation_text(self) -> str:
        """The evaluation text."""
        ...

    def describe(self) -> dict[str, str]:
        """The entry of result.json about the text: where it came from, and the `hashes` of both texts."""
        ...


def hashes(source: TextSource) -> dict[str, str]:
    """The sha256 of both texts, as UTF-8. Two results used the same text if and only if these are equal."""
    texts = {"calibration": source.calibration_text(), "evaluation": source.evaluation_text()}
    return {f"{part}_sha256": hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()}

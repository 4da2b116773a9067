"""A source of text: what to calibrate on and what to evaluate on, never the same text.

A source is a frozen value that holds no text, so `repr` of one is its configuration. The text itself is pinned by its
hash: names, revisions and paths can all be right while the text is another.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol


class TextSource(Protocol):
    """Two texts. Each is one string, tokenised later in one call."""

    def check(self) -> None:
        """Raise `UserError` for every mistake that can be seen without the network: called before a model is loaded."""
        ...

    def files(self) -> list[Path]:
        """The files of this machine that hold the texts: a result is theirs as long as they do not change."""
        ...

    def calibration_text(self) -> str: ...

    def evaluation_text(self) -> str: ...

    def describe(self) -> dict[str, str]:
        """What a result must say of its text: where it came from, and `hashes` of both texts."""
        ...


def hashes(source: TextSource) -> dict[str, str]:
    """The sha256 of both texts, as UTF-8: two results speak of the same text if and only if these agree."""
    texts = {"calibration": source.calibration_text(), "evaluation": source.evaluation_text()}
    return {f"{part}_sha256": hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()}

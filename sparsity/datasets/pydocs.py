"""English text that needs no download: the language reference that CPython ships in `pydoc_data.topics`.

A hash of a topic's name decides whether it is calibration or evaluation text, so a topic that a later Python adds does not move the
others. The topics repeat one another (`compound` contains `if`, `for` and `try`; a fifth of the text occurs twice). So every
paragraph is kept only once, in the calibration text if both parts have it: no evaluation paragraph is in the calibration text.

The text is NOT the same everywhere. Every minor version from 3.6 to 3.13 has another one, and patch versions may differ as well, as
3.11.2 and 3.11.7 do. Use it to try things out, and compare results only if their hashes are equal.
"""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparsity.core import UserError
from sparsity.datasets.base import hashes


@dataclass(frozen=True)
class PyDocs:
    """A source with about 270,000 characters of calibration text and 100,000 of evaluation text (Python 3.11)."""

    def check(self) -> None:
        try:
            import pydoc_data.topics  # noqa: F401
        except ImportError as error:
            raise UserError(
                "This Python has no `pydoc_data.topics` (some distributions leave the documentation out). Expected a "
                "standard CPython. Use one, or give local files: "
                "dataset=text dataset.calibration=FILE dataset.evaluation=FILE"
            ) from error

    def files(self) -> list[Path]:
        return []

    def calibration_text(self) -> str:
        return _parts()[0]

    def evaluation_text(self) -> str:
        return _parts()[1]

    def describe(self) -> dict[str, str]:
        return {"name": "pydocs", "python": platform.python_version(), **hashes(self)}


def evaluates(topic: str) -> bool:
    """True if a topic belongs to the evaluation text; about a quarter of the topics do."""
    return hashlib.sha256(topic.encode()).digest()[-1] % 4 == 0


@cache
def _parts() -> tuple[str, str]:
    from pydoc_data.topics import topics

    seen: set[str] = set()

    def unseen(text: str) -> list[str]:
        fresh = []
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())  # a repeated paragraph may be indented or wrapped differently
            if words and words not in seen:
                seen.add(words)
                fresh.append(paragraph.rstrip())
        return fresh

    # The calibration topics come first, so a paragraph of both parts stays in the calibration text.
    calibration = [p for topic in sorted(topics) if not evaluates(topic) for p in unseen(topics[topic])]
    evaluation = [p for topic in sorted(topics) if evaluates(topic) for p in unseen(topics[topic])]
    return "\n\n".join(calibration), "\n\n".join(evaluation)

"""Real English that needs no download: the language reference that every CPython carries in `pydoc_data.topics`.

A topic is calibration or evaluation by a hash of its name, so that a topic which a later Python adds moves no other.
The topics repeat one another (`compound` contains `if`, `for` and `try`; a fifth of the text occurs twice), so every
paragraph is kept once only, and where both parts have it, in the calibration: no evaluation paragraph is calibrated on.

The text is NOT the same everywhere. Every minor version from 3.6 to 3.13 differs, and patch versions may: 3.11.2 and
3.11.7 carry different files. Use it to try things out, and compare figures only where the hashes agree.
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
    """About 270,000 characters to calibrate on and 100,000 to evaluate on (Python 3.11)."""

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
    """Whether a topic belongs to the evaluation: about a quarter of them do."""
    return hashlib.sha256(topic.encode()).digest()[-1] % 4 == 0


@cache
def _parts() -> tuple[str, str]:
    from pydoc_data.topics import topics

    seen: set[str] = set()

    def unseen(text: str) -> list[str]:
        fresh = []
        for paragraph in re.split(r"\n\s*\n", text):
            words = " ".join(paragraph.split())  # the same paragraph may be indented or wrapped otherwise elsewhere
            if words and words not in seen:
                seen.add(words)
                fresh.append(paragraph.rstrip())
        return fresh

    # All of the calibration is walked first: what both parts contain stays there.
    calibration = [p for topic in sorted(topics) if not evaluates(topic) for p in unseen(topics[topic])]
    evaluation = [p for topic in sorted(topics) if evaluates(topic) for p in unseen(topics[topic])]
    return "\n\n".join(calibration), "\n\n".join(evaluation)

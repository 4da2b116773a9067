"""No tracker: `tracker=none`, which equals `tracker=[]`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .protocol import About, Outcome


@dataclass(frozen=True)
class NoTracker:
    """The tracker that records nothing."""

    def start(self, about: About) -> NoTracker:
        return self

    def layer(self, numbers: Mapping[str, float]) -> None: ...

    def finish(self, outcome: Outcome) -> None: ...

    def fail(self, error: str) -> None: ...

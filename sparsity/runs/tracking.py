"""Who watches a run. The run's files are the truth; a tracker is told the same rows as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Tracker(Protocol):
    def start(self, config: Mapping[str, Any]) -> None: ...

    def layer(self, row: Mapping[str, Any]) -> None: ...

    def finish(self, result: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class NoTracker:
    def start(self, config: Mapping[str, Any]) -> None: ...

    def layer(self, row: Mapping[str, Any]) -> None: ...

    def finish(self, result: Mapping[str, Any]) -> None: ...

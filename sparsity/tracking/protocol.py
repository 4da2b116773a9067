"""The protocol of a tracker, and the values that it receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class About:
    """The description of a run that starts."""

    folder: Path  # the run's own folder; a tracker may store files there
    study: str  # runs of one study belong together
    name: str  # for readers, not unique: "wanda · unstructured 0.5 · none · seed 0"
    id: str  # equal if this run is started again in this folder; letters and digits
    group: str | None  # the sweep that it is a point of
    job_type: Literal["run", "sweep"]
    config: Mapping[str, Any]  # resolved, with the names of the options that were chosen


@dataclass(frozen=True)
class Outcome:
    """The results of a run that finished."""

    summary: Mapping[str, float]  # the numbers of result.json: "perplexity/pruned"
    tables: Mapping[str, list[dict[str, Any]]] = field(
        default_factory=dict
    )  # the rows of each table, by the name of its CSV file
    checkpoint: Path | None = None  # the folder with the pruned model, if one was written


class Session(Protocol):
    """One tracked run, from its start to `finish` or `fail`. It may raise any error: the run then continues without the tracker."""

    def layer(self, numbers: Mapping[str, float]) -> None:
        """The finite numbers of a new row of layers.csv: "layer/relative_error"."""
        ...

    def finish(self, outcome: Outcome) -> None: ...

    def fail(self, error: str) -> None:
        """Note that the run ended without a result. Called after an interruption too."""
        ...


class Tracker(Protocol):
    """A frozen value that holds a tracker's options."""

    def start(self, about: About) -> Session: ...

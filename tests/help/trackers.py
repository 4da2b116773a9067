"""Trackers to plant in a run, one that writes down what it is told and one that fails; and what the real ones kept."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sparsity.tracking import About, Outcome

SPY = ("allow=[trackers]", "+tracker.spy._target_=trackers.Spy")
FAULTY = ("allow=[trackers]", "+tracker.faulty._target_=trackers.Faulty")


@dataclass
class Told:
    about: About
    layers: list[Mapping[str, float]] = field(default_factory=list)
    ends: list[Outcome | str] = field(default_factory=list)

    def layer(self, numbers: Mapping[str, float]) -> None:
        self.layers.append(numbers)

    def finish(self, outcome: Outcome) -> None:
        self.ends.append(outcome)

    def fail(self, error: str) -> None:
        self.ends.append(error)


TOLD: list[Told] = []


@dataclass(frozen=True)
class Spy:
    def start(self, about: About) -> Told:
        TOLD.append(Told(about))
        return TOLD[-1]


@dataclass(frozen=True)
class Faulty:
    """Its disk is full when it is told of a `start`, a `layer`, the `finish` or that the run did `fail`."""

    at: str

    def start(self, about: About) -> Faulty:
        return self._reached("start")

    def layer(self, numbers: Mapping[str, float]) -> None:
        self._reached("layer")

    def finish(self, outcome: Outcome) -> None:
        self._reached("finish")

    def fail(self, error: str) -> None:
        self._reached("fail")

    def _reached(self, step: str) -> Faulty:
        if step == self.at:
            raise OSError(28, "No space left on device")
        return self


# --- what the real ones kept ------------------------------------------------------------------------------------------


def sessions(run: Path) -> list[Path]:
    """The folders of a run that W&B kept offline, one for each time that it was started."""
    return sorted((run / "wandb").glob("offline-run-*"))


def inspected(session: Path, *words: str) -> str:
    line = (sys.executable, "-m", "wandb", "leet", "inspect", "--json", *words, str(session))
    return subprocess.run(line, capture_output=True, text=True, check=True, timeout=120).stdout


def wandb_run(session: Path) -> dict:
    """Configuration, summary and state, as W&B itself reads them back."""
    return json.loads(inspected(session, "--summary"))


def wandb_history(session: Path) -> list[dict]:
    records = [json.loads(line) for line in inspected(session).splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


@dataclass(frozen=True)
class Study:
    """A project in trackio's folder."""

    folder: Path
    name: str

    def rows(self, query: str, *arguments: str) -> list[tuple]:
        with sqlite3.connect(f"file:{self.folder / self.name}.db?mode=ro", uri=True) as connection:
            return connection.execute(query, arguments).fetchall()

    def configs(self) -> dict[str, dict]:
        return {run: json.loads(config) for run, config in self.rows("select run_id, config from configs")}

    def history(self, run: str) -> list[dict]:
        rows = self.rows("select metrics from metrics where run_id = ? order by step", run)
        return [json.loads(metrics) for (metrics,) in rows]


def own(metrics: Mapping) -> dict:
    """Without the trackers' own columns and without the tables, which each keeps in its own way."""
    return {name: value for name, value in metrics.items() if not name.startswith(("_", "tables/"))}

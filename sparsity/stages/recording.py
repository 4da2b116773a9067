"""The record of a run: its files, its journal, and what trackers receive.

Only the first process of a run keeps one. The others have a `Silent` record with the same methods, so that all processes run the
same code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from torch import Tensor

from ..record.environment import circumstances
from ..record.result import Result
from ..record.store import ENVIRONMENT, RESULT
from ..tracking import About, Outcome, Watch
from ..tracking.told import run_id, run_name, summary, tables
from . import saving
from .again import recorded
from .job import Job
from .journal import Journal, NoJournal, drop


class Silent:
    """The record of a process that writes nothing."""

    journal: Journal | NoJournal = NoJournal()

    def begin(self, where: Mapping[str, Any]) -> None:
        """Note that the run starts to compute. `where`: the content of environment.json."""

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `<name>.csv` anew."""

    def layer(self, row: Mapping[str, Any]) -> None:
        """Note that a layer was pruned. `row`: its row of layers.csv."""

    def gathered(self, states: Iterable[Tensor]) -> list[Tensor]:
        """Return the tensors on the CPU; [] in a process without a record. All processes must call it: they exchange tensors."""
        deque(states, maxlen=0)
        return []

    def finish(self, result: Result) -> None:
        """Note that the run is finished. Writes result.json, then deletes the journal."""


class Recorder(Silent):
    """The record that the first process keeps."""

    def __init__(self, job: Job, watch: Watch):
        self._job, self._store, self._watch = job, job.store, watch
        conditions = {"run_key": job.key, **circumstances(job.device, job.processes.size)}
        self._tables: dict[str, Sequence[Mapping[str, Any]]] = {}  # for trackers
        self.journal = Journal(job.place.folder, conditions) if job.settings.journal else NoJournal()

    def begin(self, where: Mapping[str, Any]) -> None:
        config = yaml.safe_dump(dict(self._job.config), sort_keys=False)
        self._store.text("config.yaml", f"# {where['command']}\n{config}")
        inputs = recorded(self._job.place.overrides, self._job.inputs)
        self._store.json(ENVIRONMENT, {**where, "run_key": self._job.key, **inputs})
        self._watch.start(_about(self._job))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._tables[name] = rows
        self._store.csv(f"{name}.csv", rows)

    def layer(self, row: Mapping[str, Any]) -> None:
        self._watch.layer(row)

    def gathered(self, states: Iterable[Tensor]) -> list[Tensor]:
        return [state.cpu() for state in states]

    def finish(self, result: Result) -> None:
        self._store.json(RESULT, result.to_json())
        self.journal.close()
        drop(self._store.folder)
        self._watch.finish(lambda: self._outcome(result))

    def _outcome(self, result: Result) -> Outcome:
        """The values that a tracker receives when a run has finished."""
        saved = self._store.folder / saving.FOLDER if self._job.settings.save else None
        return Outcome(summary(result), tables(self._tables), saved)


def _about(job: Job) -> About:
    """The values that a tracker receives when a run starts."""
    place, settings = job.place, job.settings
    return About(
        folder=place.folder,
        study=settings.name,
        name=run_name(place.choices, job.parts.pattern.sparsity, settings.seed, place.swept),
        id=run_id(place.folder, job.key),
        group=place.sweep.name if place.sweep else None,
        job_type="sweep" if place.sweep else "run",
        config={**job.config, "choices": dict(place.choices), "run_key": job.key, "folder": str(place.folder)},
    )

"""The tracker trackio: one folder with an SQLite file per study, shown by `make dashboard`. It needs no account and no network.

If a run is started again in the same folder, its data in trackio is replaced, as its files are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants

from ..ranges import checked
from ..variables import variables
from .protocol import About, Outcome

if TYPE_CHECKING:
    from trackio.run import Run


@dataclass(frozen=True)
@checked
class Trackio:
    """The tracker trackio."""

    project: str | None  # None: the study's name
    folder: str
    checkpoint: bool  # copy the pruned model into the folder, if one is saved

    def start(self, about: About) -> Tracked:
        folder, project = Path(self.folder).absolute(), self.project or about.study
        with variables(TRACKIO_DIR=folder):  # trackio reads it when it is imported
            from trackio import Api
            from trackio.run import Run
            from trackio.utils import TRACKIO_DIR
        if TRACKIO_DIR.absolute() != folder:
            raise RuntimeError(
                f"this process already stores its runs in {TRACKIO_DIR}: start another process for {folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with _silent_and_alone():
            try:
                earlier = [run for run in Api().runs(project) if run.id == about.id]
            except ValueError:  # the study's first run
                earlier = []
            for run in earlier:
                run.delete()
            # not trackio.init, which chooses another id and prints six lines
            return Tracked(
                Run(
                    url=None,
                    project=project,
                    client=None,
                    name=about.name,
                    run_id=about.id,
                    group=about.group,
                    config=_groupable(about),
                ),
                self.checkpoint,
            )


def _groupable(about: About) -> dict[str, Any]:
    """The configuration with the chosen options at its top level, because the dashboard can group runs only by entries there."""
    choices = {f"choices.{group}": option for group, option in about.config.get("choices", {}).items()}
    return {**about.config, **choices, "job_type": about.job_type}


@dataclass(frozen=True)
class Tracked:
    """The session of one run in trackio."""

    run: Run
    checkpoint: bool

    def layer(self, numbers: Mapping[str, float]) -> None:
        self.run.log(dict(numbers))

    def finish(self, outcome: Outcome) -> None:
        from trackio import Table

        tables = {
            f"tables/{name}": Table(columns=[*rows[0]], data=[[*row.values()] for row in rows])
            for name, rows in outcome.tables.items()
            if rows
        }
        self.run.log({**outcome.summary, **tables})
        with _silent_and_alone():
            if self.checkpoint and outcome.checkpoint is not None:
                self.run.log_artifact(outcome.checkpoint, name=f"model-{self.run.id}", type="model")
            self.run.finish()

    def fail(self, error: str) -> None:
        from trackio import AlertLevel

        with _silent_and_alone():
            self.run.log({"failed": 1})  # trackio has no field for the state of a run
            self.run.alert("failed", error, AlertLevel.ERROR)
            self.run.finish()


@contextmanager
def _silent_and_alone() -> Iterator[None]:
    """A context in which trackio prints nothing and does not ask the hub for the user's name, which takes minutes offline."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        constants.HF_HUB_OFFLINE = before

"""The tracker Weights & Biases: online if the user is logged in and has a network, otherwise offline in the run's folder.

`wandb sync` sends offline data later. W&B's own environment variables and settings files (WANDB_MODE, WANDB_PROJECT, ...) take
precedence over the defaults here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from ..ranges import Range, checked
from ..record import console
from ..variables import variables
from .protocol import About, Outcome

if TYPE_CHECKING:
    import wandb

Wait = Annotated[float, Range(least=0, cap=10**6, such=10)]
Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
@checked
class WeightsAndBiases:
    """The tracker Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"]
    project: str | None  # None: the study's name
    entity: str | None  # user or team; None: the account's default
    tags: Sequence[str]
    notes: str | None
    checkpoint: bool  # upload the pruned model, if one is saved
    init_timeout: Wait  # seconds to reach the server
    finish_timeout: Wait  # seconds to send the last data; 0: no limit

    def start(self, about: About) -> Tracked:
        with _kept_in(about.folder):
            import wandb  # takes seconds, so it is imported only if this tracker is used

            ours = wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                reinit="create_new",
                init_timeout=self.init_timeout,
                finish_timeout=self.finish_timeout,
                finish_timeout_raises=True,
            )
            theirs = wandb.setup(ours).settings
            mode, why = self._mode(theirs)
            words: dict[str, Any] = {
                "project": self.project or theirs.project or about.study,
                "entity": self.entity or theirs.entity,
                "name": theirs.run_name or about.name,
                "group": theirs.run_group or about.group,
                "job_type": theirs.run_job_type or about.job_type,
                "id": theirs.run_id or about.id,
                "tags": [*(theirs.run_tags or ()), *self.tags],
                "notes": self.notes or theirs.run_notes,
                "config": dict(about.config),
                "dir": None if "WANDB_DIR" in os.environ else about.folder,
                "resume": theirs.resume or "allow",
                "settings": ours,
            }
            try:
                run = wandb.init(mode=mode, **words)
            except Exception as error:
                if mode != "online":
                    raise
                why = f"no answer from {theirs.base_url} ({str(error).partition(chr(10))[0]})"
                wandb.teardown()  # otherwise its service says that this id is in use
                wandb.setup(ours)
                run = wandb.init(mode="offline", **words)
            run.define_metric("layer/*", summary="none")  # otherwise W&B puts the last layer's numbers into the summary
        if why is not None:
            console.say(f"tracker=wandb: {why}: offline; to send the data later: wandb sync {run.settings.sync_dir}")
        return Tracked(run, about, self.checkpoint)

    def _mode(self, theirs: wandb.Settings) -> tuple[Mode, str | None]:
        """The mode, and the reason if `auto` means offline. `auto` follows W&B's settings; without a key it is offline.

        This needs no network.
        """
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib import wbauth

        if self.mode != "auto":
            return self.mode, None
        if theirs.mode != "online":
            return cast(Mode, theirs.mode), None
        try:
            key = wbauth.authenticate_session(host=theirs.base_url, source="auto", prompt=False, update_session=False)
        except AuthenticationError as error:
            return "offline", str(error)
        return ("online", None) if key else ("offline", "not logged in")


@dataclass
class Tracked:
    """The session of one run in W&B."""

    run: wandb.Run
    about: About
    checkpoint: bool
    rows: int = 0

    def layer(self, numbers: Mapping[str, float]) -> None:
        if self.rows >= self.run.starting_step:  # a resumed run already has the earlier rows
            self.run.log(dict(numbers))
        self.rows += 1

    def finish(self, outcome: Outcome) -> None:
        import wandb

        with _kept_in(self.about.folder):
            for name, rows in outcome.tables.items():
                table = wandb.Table(columns=[*rows[0]] if rows else [], data=[[*row.values()] for row in rows])
                self.run.log({f"tables/{name}": table})
            if self.checkpoint and outcome.checkpoint is not None:
                artifact = wandb.Artifact(f"model-{self.about.id}", type="model", metadata=dict(outcome.summary))
                artifact.add_dir(str(outcome.checkpoint), policy="immutable")  # not copied before it is sent
                self.run.log_artifact(artifact)
            self.run.summary.update(dict(outcome.summary))
            self.run.finish(exit_code=0)

    def fail(self, error: str) -> None:
        with _kept_in(self.about.folder):
            self.run.summary["error"] = error
            self.run.finish(exit_code=1)


def _kept_in(folder: Path) -> AbstractContextManager[None]:
    """A context in which W&B stores staged files and logs in the run's folder instead of the user's home."""
    wanted = {name: folder / "wandb" for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR") if name not in os.environ}
    return variables(**wanted)

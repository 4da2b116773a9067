"""The state that the stages of one run share: the model, the text, the plan, and the record of what was done.

All processes of a run call the same stages. Only the first one keeps a record (`recording`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Site
from ..engine import Plan
from ..measures import Measure
from ..models import Decoder
from ..record import console
from ..record.result import Result
from .job import Job
from .loading import DenseModel, Held
from .recording import Silent
from .stage import Stage


class Clock:
    """The seconds of a run, by the names under which its stages count them."""

    def __init__(self, names: Iterable[str]):
        self.seconds = dict.fromkeys(names, 0.0)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def move(self, origin: str, name: str, seconds: float) -> None:
        self.seconds[origin] -= seconds
        self.seconds[name] += seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add the seconds that an earlier process spent on this run."""
        for name, spent in seconds.items():
            self.seconds[name] += spent


@dataclass
class Work:
    """The state of one run. The comment of a field names the stage that sets it."""

    job: Job
    record: Silent
    clock: Clock
    held: Held | None = None  # the model of a sweep's last point
    scratch: Path | None = None  # the folder for changed blocks, if they do not stay in memory
    dense: DenseModel = field(init=False)  # load
    plan: Plan = field(init=False)  # load; allocate gives it a pattern for each layer
    ids_BT: Tensor | None = None  # draw: the calibration text; None if nothing needs it
    held_out_HT: Tensor | None = None  # draw: the held-out text, on which layer errors are measured
    ids_N: Tensor = field(default_factory=lambda: torch.empty(0))  # draw: the evaluation text
    keeps: dict[Site, Tensor] = field(default_factory=dict)  # prune: the masks as packed bits, if a recovery needs them
    rows: list[dict[str, Any]] = field(default_factory=list)  # prune: the rows of layers.csv
    sections: dict[str, Any] = field(default_factory=dict)  # sections of result.json so far
    measures: list[Measure] = field(default_factory=list)  # measures so far

    @property
    def result(self) -> Result:
        """The result so far, from the sections and measures of the stages that are done."""
        return Result.of(self.sections, self.measures)

    @property
    def decoder(self) -> Decoder:
        return self.dense.decoder

    @property
    def batches(self) -> list[Tensor]:
        """The calibration text in batches (B, T); [] if there is no text."""
        return [] if self.ids_BT is None else [*self.ids_BT.split(self.job.settings.calibration.batch_size)]

    def takes_part(self, stage: Stage[Any]) -> bool:
        """True if this process takes part in a stage."""
        return stage.shared or self.job.processes.rank == 0

    def busy(self, doing: str) -> AbstractContextManager[Any]:
        """Show a spinner, for work that shows no progress of its own."""
        return console.busy(doing)

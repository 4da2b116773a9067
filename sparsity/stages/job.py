"""A run before it computes: its checked configuration, its components, and the folders for its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..cache import Cache
from ..options.components import Parts
from ..options.settings import Settings
from ..processes import ALONE, Processes
from ..record.folders import cache_dir
from ..record.store import RunStore


@dataclass(frozen=True)
class Place:
    """The folder for a run's files, the folder in which finished runs are searched, and the choices of the command."""

    folder: Path
    finished: Path
    choices: Mapping[str, str]  # group -> option
    overrides: Sequence[str] = ()  # the overrides of this run: "sparsity=0.6"
    sweep: Path | None = None  # the folder of the sweep, if this run is a point of one
    swept: Sequence[str] = ()  # the overrides that differ between the points of the sweep
    kin: Callable[[], Iterable[tuple[Parts, Settings]]] = (
        tuple  # compositions that together need all statistics of the sweep's points
    )


@dataclass(frozen=True)
class Job:
    """A run that is ready to start: options, components, device, key and folders."""

    settings: Settings
    parts: Parts
    device: torch.device
    key: str
    config: Mapping[str, Any]  # resolved, for the record
    place: Place
    processes: Processes = ALONE
    inputs: Mapping[str, Any] = field(default_factory=dict)  # the content of the key

    @property
    def store(self) -> RunStore:
        return RunStore(self.place.folder)

    @property
    def cache(self) -> Cache:
        return Cache(cache_dir(), round(self.settings.cache.limit_gib * 2**30))

"""What a run is made of before anything is computed: its configuration, found sound, and where its files go."""

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
    """Where a run's files go, the folder under which finished runs are looked up, and what was asked for."""

    folder: Path
    finished: Path
    choices: Mapping[str, str]  # group -> option
    overrides: Sequence[str] = ()  # this point's words of the command line: "sparsity=0.6"
    sweep: Path | None = None  # the folder of the sweep that this is a point of
    swept: Sequence[str] = ()  # the words that other points of the sweep do not share
    kin: Callable[[], Iterable[tuple[Parts, Settings]]] = (
        tuple  # compositions that ask for all that the sweep's points ask for
    )


@dataclass(frozen=True)
class Job:
    settings: Settings
    parts: Parts
    device: torch.device
    key: str
    config: Mapping[str, Any]  # resolved, for the record
    place: Place
    processes: Processes = ALONE
    inputs: Mapping[str, Any] = field(default_factory=dict)  # what the key is made of

    @property
    def store(self) -> RunStore:
        return RunStore(self.place.folder)

    @property
    def cache(self) -> Cache:
        return Cache(cache_dir(), round(self.settings.cache.limit_gib * 2**30))

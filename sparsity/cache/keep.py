"""The cache as a whole, with its size limit.

`<folder>/dense` holds one file per evaluation of a dense model; `<folder>/statistics` one folder per model and calibration text.
The least recently used items are deleted when the cache would exceed its limit or fill the disk.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..record.digest import content_hash
from ..record.folders import held
from .entry import SUFFIX, content_of, entries, write

log = logging.getLogger(__name__)

DENSE, STATISTICS = "dense", "statistics"
SPARE = 2**30  # bytes of the disk that the cache leaves free


@dataclass(frozen=True)
class Item:
    """The unit that is kept or deleted: a file of `dense`, or a folder of `statistics`."""

    path: Path
    bytes: int
    used: float  # seconds since the epoch


@dataclass(frozen=True)
class Cache:
    """The cache in a folder, with a limit of its size."""

    folder: Path
    limit: int  # bytes

    def remembered(
        self, content: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The tensors that are cached for the key `content`. If there are none, `compute` is called and its result is cached.

        Only one process computes at a time; the others wait for its result.
        """
        key, folder = content_hash(content), self.folder / DENSE
        found = _read(folder, key)
        if found is None and not writable(folder):
            return compute()
        if found is None:
            with held(folder / f"{key[:32]}.lock", "evaluating the dense model"):
                found = _read(folder, key)  # another process may have computed it during the wait
                if found is None:
                    found = compute()
                    self.write(folder, key, content_of(found, content))
        return found

    def write(self, folder: Path, key: str, content: bytes, expected: int = 0) -> Path | None:
        """Write a file into the cache and return its path; None, with a warning, if there is no room for it.

        `expected`: the bytes of all files of a set that is useless if incomplete. If they exceed the limit, nothing is written or
        deleted.
        """
        try:
            if expected > self.limit:
                raise OSError(f"some {expected / 2**30:.2f} GiB do not fit into cache.limit_gib={self.limit / 2**30:g}")
            self.make_room(len(content), folder)
            return write(folder, key, content)
        except OSError as error:
            log.warning("not kept in the cache: %s", error.strerror or error)
            return None

    def make_room(self, needed: int, folder: Path) -> None:
        """Delete the least recently used items, except `folder`, until `needed` bytes fit. Raises `OSError` if they cannot."""
        self.folder.mkdir(parents=True, exist_ok=True)

        def fits(held: int) -> bool:
            return held + needed <= self.limit and shutil.disk_usage(self.folder).free >= needed + SPARE

        held = self._evict(fits, but=folder)
        if not fits(held):
            raise OSError(
                f"{needed / 2**20:.0f} MiB more do not fit: {held / 2**30:.2f} GiB of cache.limit_gib={self.limit / 2**30:g} "
                f"are used, {shutil.disk_usage(self.folder).free / 2**30:.1f} GiB of the disk are free"
            )

    def shrink(self) -> None:
        """Delete the least recently used items until the rest is within the limit."""
        self._evict(lambda held: held <= self.limit)

    def _evict(self, enough: Callable[[int], bool], but: Path | None = None) -> int:
        """Delete items, the least recently used first and never `but`, until `enough(bytes left)`. Returns the bytes left."""
        items = self.items()
        held = sum(item.bytes for item in items)
        for item in items:
            if enough(held):
                break
            if item.path != but:
                remove(item.path)
                held -= item.bytes
        return held

    def items(self) -> list[Item]:
        """All items, the least recently used first."""
        found = []
        for path in (self.folder / DENSE).glob(f"*{SUFFIX}"):
            if stat := _stat(path):
                found.append(Item(path, stat.st_size, stat.st_mtime))
        for folder in (path for path in (self.folder / STATISTICS).glob("*") if path.is_dir()):
            stats = [stat for path in folder.iterdir() if (stat := _stat(path))]
            found.append(Item(folder, sum(s.st_size for s in stats), max((s.st_mtime for s in stats), default=0.0)))
        return sorted(found, key=lambda item: item.used)


def _read(folder: Path, key: str) -> Mapping[str, Tensor] | None:
    for entry in entries(folder, key):
        with closing(entry):
            entry.touch()
            return entry.tensors()
    return None


def writable(folder: Path) -> bool:
    """True if files can be written into the folder; otherwise a warning says why."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("%s cannot be made (%s)", folder, error.strerror)
        return False
    if not os.access(folder, os.W_OK):
        log.warning("%s cannot be written", folder)
        return False
    return True


def remove(path: Path) -> None:
    """Delete a file or folder. It may already be gone: another process may have been faster."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None

"""A cache file of tensors, named `<key>-<digest>.safetensors`. A file appears complete or not at all.

The key is a hash of everything that determines the content, so a file is never out of date. The digest is the sha256 of the file,
so damage shows when the content does not agree with the name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ..record.store import RunStore

log = logging.getLogger(__name__)

SUFFIX = ".safetensors"
DIGITS = 32  # hexadecimal digits of a digest

_sound: set[tuple[int, ...]] = set()  # stamps of files that this process has verified


class Entry:
    """An open cache file, which stays readable if another process deletes it. Raises `FileNotFoundError` if it is gone."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("rb")

    @cached_property
    def damage(self) -> str | None:
        """A few words on what is wrong with the file; None if it is sound. A sound file is verified again only after a change."""
        stamp = self._stamp()
        if stamp not in _sound:
            self._file.seek(0)
            digest = hashlib.file_digest(self._file, "sha256").hexdigest()[:DIGITS]
            if not self.path.stem.endswith(f"-{digest}"):
                return "its content does not have the sha256 in its name"
            _sound.add(stamp)
        return None

    def touch(self) -> None:
        """Set the time of last use to now. In a read-only cache this does nothing."""
        sound = self._stamp() in _sound
        try:
            os.utime(self._file.fileno())
        except OSError:
            log.debug("%s cannot be touched", self.path)
        if sound:
            _sound.add(self._stamp())

    def _stamp(self) -> tuple[int, ...]:
        stat = os.fstat(self._file.fileno())
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns

    @cached_property
    def about(self) -> dict[str, Any]:
        """The description at the head of the file. Check `damage` first: a damaged file may have any description.

        Raises `ValueError` if the file does not begin with a description.
        """
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        length = int.from_bytes(self._file.read(8), "little")
        try:
            about: dict[str, Any] = json.loads(json.loads(self._file.read(min(length, size)))["__metadata__"]["about"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} does not begin with a description") from error
        return about

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, on the CPU. The file is mapped into memory, so only what is used is read."""
        with safe_open(f"/dev/fd/{self._file.fileno()}", "pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def entries(
    folder: Path, key: str = "", wanted: Callable[[dict[str, Any]], bool] = lambda about: True
) -> Iterator[Entry]:
    """The undamaged files whose key begins with `key`. Damaged files are deleted with a warning.

    `wanted` decides by the description in a file whether the file is verified and returned.
    """
    found = []
    for path in sorted(folder.glob(f"{key}*{SUFFIX}")):
        try:
            entry = Entry(path)
        except FileNotFoundError:  # deleted by another process after the folder was listed
            continue
        with suppress(ValueError):
            if not wanted(entry.about):
                entry.close()
                continue
        found.append(entry)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        damages = list(pool.map(lambda entry: entry.damage, found))
    for entry, damage in zip(found, damages, strict=True):
        if damage is None:
            yield entry
        else:
            entry.close()
            log.warning("%s is damaged (%s): computing it again", entry.path, damage)
            with suppress(OSError):  # the cache may be read-only
                entry.path.unlink(missing_ok=True)


def write(folder: Path, key: str, content: bytes) -> Path:
    """Write a file with the bytes from `content_of` and return its path. Raises `OSError` if it cannot be written."""
    path = folder / f"{key}-{hashlib.sha256(content).hexdigest()[:DIGITS]}{SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    with RunStore(folder).writing(path.name) as unfinished:
        unfinished.write_bytes(content)
    return path


def content_of(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """The bytes of a file with these tensors. `about` is its description, a JSON value."""
    return save(dict(tensors), {"about": json.dumps(about, default=str)})

"""A file of tensors under `<key>-<digest>.safetensors`: the key is a hash of all that determines the content, so a file is never
out of date; the digest is the file's own sha256, so a damaged one is told from its name. It appears complete or not at all.
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
DIGITS = 32  # of a digest, hexadecimal

_sound: set[tuple[int, ...]] = set()  # stamps of files that were read to the end and found undamaged, by this process


class Entry:
    """An open file. It stays readable when another process deletes it. Raises `FileNotFoundError` if that came first."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("rb")

    @cached_property
    def damage(self) -> str | None:
        """What is wrong with it, in a few words. A file that was sound is not read again until somebody changes it."""
        stamp = self._stamp()
        if stamp not in _sound:
            self._file.seek(0)
            digest = hashlib.file_digest(self._file, "sha256").hexdigest()[:DIGITS]
            if not self.path.stem.endswith(f"-{digest}"):
                return "its content is not what its name says"
            _sound.add(stamp)
        return None

    def touch(self) -> None:
        """It was used now. A cache that may only be read stays as it is."""
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
        """Its description. Read from the head of the file: look at `damage` first, or believe nothing of it."""
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(0)
        length = int.from_bytes(self._file.read(8), "little")
        try:
            about: dict[str, Any] = json.loads(json.loads(self._file.read(min(length, size)))["__metadata__"]["about"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} does not begin with a description") from error
        return about

    def tensors(self) -> dict[str, Tensor]:
        """On the CPU, mapped into memory: only what is looked at is read."""
        with safe_open(f"/dev/fd/{self._file.fileno()}", "pt") as file:
            return {name: file.get_tensor(name) for name in sorted(file.keys())}

    def close(self) -> None:
        self._file.close()


def entries(
    folder: Path, key: str = "", wanted: Callable[[dict[str, Any]], bool] = lambda about: True
) -> Iterator[Entry]:
    """The undamaged files of a key, or of every key that begins with it. A damaged one is named and deleted.

    A file that says of itself, in its `about`, that it is not `wanted` is not read.
    """
    found = []
    for path in sorted(folder.glob(f"{key}*{SUFFIX}")):
        try:
            entry = Entry(path)
        except FileNotFoundError:  # evicted since the folder was listed
            continue
        with suppress(ValueError):
            if not wanted(entry.about):
                entry.close()
                continue
        found.append(entry)
    with ThreadPoolExecutor() as pool:  # a digest is taken without the interpreter's lock
        damages = list(pool.map(lambda entry: entry.damage, found))
    for entry, damage in zip(found, damages, strict=True):
        if damage is None:
            yield entry
        else:
            entry.close()
            log.warning("%s is damaged (%s): computing it again", entry.path, damage)
            with suppress(OSError):  # of a cache that may only be read
                entry.path.unlink(missing_ok=True)


def write(folder: Path, key: str, content: bytes) -> Path:
    """The file, of what `content_of` made. Raises `OSError` where it cannot be written; then there is none."""
    path = folder / f"{key}-{hashlib.sha256(content).hexdigest()[:DIGITS]}{SUFFIX}"
    folder.mkdir(parents=True, exist_ok=True)
    with RunStore(folder).writing(path.name) as unfinished:
        unfinished.write_bytes(content)
    return path


def content_of(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """A file's bytes. `about` is a JSON value that says what they are."""
    return save(dict(tensors), {"about": json.dumps(about, default=str)})

"""Folders that are expensive to make, made once per user and shared by every process.

A folder is built beside its final place and renamed into it, so the final name only ever holds a finished build. Its
manifest, written last, holds the size and sha256 of each file: a folder that disagrees with it is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from ..user_error import UserError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def cache_dir() -> Path:
    """SPARSITY_CACHE, or the user's cache folder. Not created here."""
    chosen = os.environ.get("SPARSITY_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("sparsity-lab"))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """What tells that a file is the one that was read: path, size, time of its last change."""
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def damage(folder: Path) -> str | None:
    """What is wrong with a built folder, in a few words; None if every file is what its manifest says."""
    try:
        files: dict[str, dict[str, str | int]] = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or not readable"
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != wanted["bytes"]:  # before the hash: a cut file need not be read
            return f"{name} has {path.stat().st_size} bytes, not {wanted['bytes']}"
        if sha256_of(path) != wanted["sha256"]:
            return f"{name} has changed"
    return None


def built(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, after `build` has filled it, in this process or an earlier one. `build` is given an empty folder."""
    if damage(folder) is None:  # without the lock: a cache that this user may only read will do
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder.with_name(f"{folder.name}.lock"), f"building {folder}"):
            _build(folder, build)
    except PermissionError as err:
        raise UserError(
            f"got a cache folder that cannot be written ({err}); expected one that can; set SPARSITY_CACHE to a folder"
        ) from err
    return folder


def _build(folder: Path, build: Callable[[Path], None]) -> None:
    """Under the lock."""
    if (found := damage(folder)) is None:  # another process built it while this one waited
        return
    if folder.exists():
        log.warning("%s is damaged (%s): building it again", folder, found)
    for left in folder.parent.glob(f"{folder.name}.part-*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        build(part)
        files = sorted(path for path in part.rglob("*") if path.is_file())
        listed = {
            path.relative_to(part).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        }
        (part / MANIFEST).write_text(json.dumps(listed, indent=1) + "\n", "utf-8")
        for path in (part, *part.rglob("*")):  # mkdtemp and safetensors shut out the other users of a shared cache
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def held(path: Path, doing: str) -> Iterator[None]:
    """A lock between processes, with a line in the log if another one has it. The system frees it when its holder dies."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is %s: waiting for it", doing)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

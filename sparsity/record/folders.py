"""Folders that are expensive to build: each is built once per user and shared by all processes.

A folder is built under another name and then renamed, so the final name always holds a complete folder. Its manifest, written last,
holds the size and sha256 of each file; a folder that disagrees with its manifest is built again.
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
    """The folder that SPARSITY_CACHE names, or sparsity-lab in the user's cache folder. It is not created here."""
    chosen = os.environ.get("SPARSITY_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("sparsity-lab"))


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Path, size in bytes and time of the last change (ns) of each file: if one of them differs, the file has changed."""
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def damage(folder: Path) -> str | None:
    """A few words on what is wrong with a built folder; None if every file agrees with the manifest."""
    try:
        files: dict[str, dict[str, str | int]] = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return f"{MANIFEST} is missing or not readable"
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != wanted["bytes"]:  # checked before the hash, so that a truncated file is not read
            return f"{name} has {path.stat().st_size} bytes, not {wanted['bytes']}"
        if sha256_of(path) != wanted["sha256"]:
            return f"{name} has changed"
    return None


def built(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, which `build` has filled, now or in an earlier run. `build` gets an empty folder to write into.

    Raises `UserError` if the folder cannot be written.
    """
    if damage(folder) is None:  # checked without the lock, so that a read-only cache can be used
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
    """Build the folder. The caller must hold its lock."""
    if (found := damage(folder)) is None:  # another process built it while this one waited
        return
    if folder.exists():
        log.warning("%s is damaged (%s): building it again", folder, found)
    for left in folder.parent.glob(f"{folder.name}.part-*"):  # left by a killed process; no other can build now
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
        for path in (part, *part.rglob("*")):  # mkdtemp and safetensors deny access to other users of a shared cache
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def held(path: Path, doing: str) -> Iterator[None]:
    """A context that holds a lock between processes; logs a line if it has to wait. The system frees the lock of a dead process.

    `doing`: the holder's work, for that line.
    """
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

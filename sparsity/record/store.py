"""Writes the files of a run's folder; no other code does. A file is written under another name and renamed when it is complete.

`result.json` is written last: it exists if and only if the run has finished.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..user_error import UserError

log = logging.getLogger(__name__)

RESULT = "result.json"
ENVIRONMENT = "environment.json"  # marks a folder as the folder of a run
JOURNAL = "journal"
FOLDERS = ("model", "packed", JOURNAL)
LOCK = ".lock"  # held by the process that writes into the folder


class RunStore:
    """The folder of one run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def check_writable(self) -> None:
        """Raise `UserError` if the folder cannot be written, or holds something else than a run. Called before any work."""
        if self.folder.is_dir():
            names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
            if names and not names & {ENVIRONMENT, RESULT}:
                raise UserError(
                    f"{self.folder} holds {', '.join(sorted(names)[:4])} and no run: expected an empty folder, or that of an "
                    f"earlier run. Choose another hydra.run.dir"
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.writing("probe") as path:
                path.touch()
            (self.folder / "probe").unlink()
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written ({error.strerror}): choose another hydra.run.dir"
            ) from error

    def check_space(self, needed: int) -> None:
        """Raise `UserError` if the disk has no room for a checkpoint of `needed` bytes."""
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"{self.folder} has {free / 2**30:.1f} GiB free: expected {needed / 2**30:.1f} GiB for the checkpoint. "
                f"Choose another hydra.run.dir, or save=false"
            )

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """A context that holds the run's lock; it gives False if another process has it.

        The operating system frees the lock of a dead process.
        """
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            (self.folder / LOCK).unlink(missing_ok=True)
            lock.release()

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json; None if the run has not finished."""
        return read_result(self.folder / RESULT)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A context with a temporary path for a file or folder. It is renamed to `name` at the end, and removed after an error."""
        path = self.folder / f".{name}.{uuid.uuid4().hex[:8]}"
        try:
            yield path
            target = self.folder / name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
        finally:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A context with an empty folder, which is removed at the end."""
        path = self.folder / f".scratch.{uuid.uuid4().hex[:8]}"
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def text(self, name: str, content: str) -> None:
        """Write a text file."""
        with self.writing(name) as path:
            path.write_text(content, encoding="utf-8")

    def json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file. Raises `ValueError` if a number is NaN or infinite."""
        self.text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def csv(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a CSV file, with the columns of all rows."""
        self.text(name, csv_text(rows))

    def unfinish(self) -> None:
        """Delete the result and the other files of an earlier run, so that the folder counts as unfinished during a new run."""
        (self.folder / RESULT).unlink(missing_ok=True)
        if (self.folder / ENVIRONMENT).exists():  # the new run may not write all of these again
            for name in FOLDERS:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            self.tidy()
            for table in self.folder.glob("*.csv"):
                table.unlink()

    def tidy(self) -> None:
        """Delete incomplete files of a killed process."""
        for left in self.folder.glob(".*.????????"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()

    def drop_if_empty(self) -> None:
        """Delete the folder if it is empty: Hydra makes it before the run knows whether it will write anything."""
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV. The columns are those of all rows, in the order of their first occurrence."""
    columns = dict.fromkeys(column for row in rows for column in row)
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def read_result(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None if there is none. Raises `UserError` if it cannot be read."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): expected a result of this program. Delete it to run again"
        ) from error
    return result if isinstance(result, dict) else None


def find_finished(root: Path, key: str) -> Path | None:
    """The folder of a finished run with this key: `root`, or a folder at most two levels below it (a point of a sweep)."""
    return next(_with_key(root, RESULT, key), None)


def find_interrupted(root: Path, key: str) -> Iterator[Path]:
    """The folders of unfinished runs with this key that can be resumed, as they have a journal."""
    for folder in _with_key(root, ENVIRONMENT, key):
        if not (folder / RESULT).exists() and (folder / JOURNAL).is_dir():
            yield folder


def _with_key(root: Path, name: str, key: str) -> Iterator[Path]:
    for depth in ("", "*/", "*/*/"):
        for path in sorted(root.glob(depth + name)):
            try:
                content = read_result(path)
            except UserError as error:
                if name == RESULT:
                    raise
                log.warning("%s", error)
                continue
            if content and content.get("run_key") == key:
                yield path.parent

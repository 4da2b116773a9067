"""Reads runs from their folders. A run is finished if its folder has a result.json, unfinished if it has only environment.json.

Nothing is skipped silently. A run with a damaged result is left out and the reason is reported; a run with another damaged file is
read without that file. A file that an older version did not write is no problem.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ..record.older import upgraded_options
from ..record.result import Result
from ..record.store import ENVIRONMENT, RESULT
from ..user_error import UserError

Row = dict[str, str]
TABLES = ("layers", "windows", "divergence", "documents", "generations")


@dataclass(frozen=True)
class Run:
    """A finished run. The mappings and rows hold whatever the files say: read them with `at` and `number`."""

    where: str  # its folder, from the place where the command was given
    result: Result
    config: Mapping[str, Any]  # resolved; empty if unknown
    environment: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]  # name -> rows; empty for a table that the run did not write
    time: str  # ISO 8601: the start of the run, or the time of the result if the start is not known

    @property
    def overrides(self) -> list[str]:
        return [str(word).lstrip("+") for word in self.result.overrides]


@dataclass(frozen=True)
class Problem:
    """A folder that could not be read, or not completely, and the reason."""

    where: str
    what: str


def at(content: Any, path: str) -> Any:
    """The value `content["a"]["b"]` for the path "a.b"; None if there is none."""
    for key in path.split("."):
        if not isinstance(content, Mapping) or key not in content:
            return None
        content = content[key]
    return content


def number(value: Any) -> float | None:
    """A finite number from a JSON or CSV value; None for anything else."""
    if value is None or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def read(folders: Iterable[Path]) -> tuple[list[Run], list[Problem]]:
    """The finished runs in these folders and below, in the order of their start, and the problems in reading them.

    Raises `UserError` for a folder that does not exist.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: expected one that holds runs, such as outputs or outputs/<name>")
        marked = {path.parent for name in (RESULT, ENVIRONMENT) for path in folder.rglob(name)}
        found |= dict.fromkeys(path.resolve() for path in sorted(marked))
    runs, problems = [], []
    for folder in found:
        run, wrong = read_run(folder)
        runs += [run] if run else []
        problems += wrong
    return sorted(runs, key=lambda run: run.time), problems


def read_run(folder: Path) -> tuple[Run | None, list[Problem]]:
    """The run of one folder, and the problems in reading it. The run is None if it is unfinished or its result is damaged."""
    where = _shown(folder)
    if not (folder / RESULT).exists():
        return None, [Problem(where, "unfinished: it has no result.json")]
    problems: list[Problem] = []

    def attempt(name: str, parse: Callable[[str], Any], empty: Any) -> Any:
        try:
            return parse((folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return empty
        except (OSError, ValueError, yaml.YAMLError, csv.Error, RecursionError) as error:
            reason = " ".join(str(error).split())[:120]
            problems.append(Problem(where, f"{name} is damaged and left out: {reason}"))
            return empty

    try:
        content = attempt(RESULT, _mapping, None)
        result = None if content is None else Result.from_json(content)
    except UserError as error:  # a newer version's
        return None, [Problem(where, f"left out: {error}")]
    if result is None:
        return None, problems
    environment = attempt(ENVIRONMENT, _mapping, {})
    config = upgraded_options(attempt("config.yaml", _yaml, {}))
    tables = {name: attempt(f"{name}.csv", PARSERS.get(name, _rows), []) for name in TABLES}
    time = environment.get("time")
    if not isinstance(time, str):
        finished = datetime.fromtimestamp((folder / RESULT).stat().st_mtime, UTC)
        time = finished.isoformat(timespec="seconds")
    return Run(where, result, config, environment, tables, time), problems


def _shown(folder: Path) -> str:
    here = Path.cwd()
    return (folder.relative_to(here) if folder.is_relative_to(here) else folder).as_posix()


def _mapping(text: str) -> dict[str, Any]:
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, got {type(content).__name__}")
    return content


def _yaml(text: str) -> dict[str, Any]:
    content = yaml.load(
        text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )  # the C loader, if it was built, is ten times faster
    if not isinstance(content, dict):
        raise ValueError(f"expected a mapping, got {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def _rows(text: str) -> list[Row]:
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))  # a text may hold any line separator
    for i, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {i} has more or fewer cells than the heading")
    return rows


def _finite(*columns: str) -> Callable[[str], list[Row]]:
    """A parser for CSV rows that must have a finite number in these columns."""

    def parse(text: str) -> list[Row]:
        rows = _rows(text)
        for i, row in enumerate(rows, start=1):
            if any(number(row.get(column)) is None for column in columns):
                raise ValueError(f"row {i} has no finite {' and '.join(columns)}")
        return rows

    return parse


PARSERS = {"windows": _finite("nll_dense", "nll_pruned"), "divergence": _finite("kl")}

"""What trackers are told, made of a run's configuration, rows and result: every tracker gets the same names and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..record.groups import mentioned
from ..record.numbers import is_number
from ..record.result import Result

IN_NAME = ("method", "pattern", "allocation", "corrector", "sparsity", "seed", "tracker")


def run_name(choices: Mapping[str, str], sparsity: float, seed: int, swept: Sequence[str]) -> str:
    """ "wanda · unstructured 0.5 · none · seed 0", and the words of a sweep that differ from point to point and are not in it.

    An allocation other than the usual one stands behind the sparsity, what tunes behind the corrector.
    """
    pruned = [choices["method"], f"{choices['pattern']} {sparsity:g}", *mentioned(choices, "allocation")]
    parts = [*pruned, choices["corrector"], *mentioned(choices, "refine", "recover"), f"seed {seed}"]
    return " · ".join([*parts, *(word for word in swept if word.lstrip("+~").partition("=")[0] not in IN_NAME)])


def run_id(folder: Path, key: str) -> str:
    """The same where the same run is started again in the same folder."""
    return hashlib.sha256(f"{folder}\n{key}".encode()).hexdigest()[:16]


def layer_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {f"layer/{name}": value for name, value in row.items() if is_number(value)}


def summary(result: Result) -> dict[str, float]:
    """The numbers of result.json by their path, "perplexity/pruned"; the settings that it repeats are in the configuration."""
    return result.numbers(*result.findings(), separator="/")


def tables(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table under all of its columns: a cell that a row lacks is None, and a column holds numbers or text.

    W&B keeps one type to a column: where a text stands among numbers, all of them become text.
    """
    return {name: _one_kind(listed) for name, listed in rows.items()}


def _one_kind(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    mixed = {column for column in columns if len({_kind(row.get(column)) for row in rows} - {None}) > 1}
    return [
        {
            name: str(cell) if name in mixed and (cell := row.get(name)) is not None else row.get(name)
            for name in columns
        }
        for row in rows
    ]


def _kind(cell: Any) -> str | None:
    """Numbers are of one kind, whole or not."""
    if cell is None:
        return None
    return "number" if isinstance(cell, int | float) and not isinstance(cell, bool) else type(cell).__name__

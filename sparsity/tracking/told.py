"""The names, numbers and tables that all trackers get, made from a run's configuration, rows and result."""

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
    """The name of a run: "wanda · unstructured 0.5 · none · seed 0", then the overrides that differ between a sweep's points.

    An allocation that is not the default follows the sparsity; a refinement and a recovery follow the corrector.
    """
    pruned = [choices["method"], f"{choices['pattern']} {sparsity:g}", *mentioned(choices, "allocation")]
    parts = [*pruned, choices["corrector"], *mentioned(choices, "refine", "recover"), f"seed {seed}"]
    return " · ".join([*parts, *(word for word in swept if word.lstrip("+~").partition("=")[0] not in IN_NAME)])


def run_id(folder: Path, key: str) -> str:
    """The id of a run: 16 hexadecimal digits, equal if the same run is started again in the same folder."""
    return hashlib.sha256(f"{folder}\n{key}".encode()).hexdigest()[:16]


def layer_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row of layers.csv, by name: "layer/relative_error"."""
    return {f"layer/{name}": value for name, value in row.items() if is_number(value)}


def summary(result: Result) -> dict[str, float]:
    """The findings in result.json by their path, "perplexity/pruned". The settings are in the configuration."""
    return result.numbers(*result.findings(), separator="/")


def tables(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table, with all of its columns in every row. A missing cell is None.

    A column holds only numbers or only text, because W&B allows one type per column: numbers in a column with text become text.
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
    """The kind of a cell: "number" for int and float, else the name of its type; None for no value."""
    if cell is None:
        return None
    return "number" if isinstance(cell, int | float) and not isinstance(cell, bool) else type(cell).__name__

"""What trackers are told, made of a run's configuration, rows and result: every tracker gets the same names and numbers."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..record.groups import mentioned
from ..record.numbers import is_number, numbers

SETTINGS = ("schema", "calibration", "resumed")  # what is no finding
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


def summary(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of result.json by their path, "perplexity/pruned"; the settings that it repeats are in the configuration."""
    return dict(numbers({name: value for name, value in result.items() if name not in SETTINGS}, "/"))


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each CSV file of a run's folder. A cell that is a number is one; an empty one is None."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        # a column of numbers, or of text: W&B keeps one type to a column
        numeric = {name for name in rows[0] if all(_parsed(row[name]) is not row[name] for row in rows)} if rows else ()
        found[path.stem] = [
            {name: _parsed(cell) if name in numeric else cell for name, cell in row.items()} for row in rows
        ]
    return found


def _parsed(cell: str) -> int | float | str | None:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            pass
    return cell or None

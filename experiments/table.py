"""python -m experiments.table outputs/<name>: the finished runs below a folder as a Markdown table, one row for each composition.

Runs that differ in nothing but their seed make one row: the mean, the sample standard deviation and the single perplexities.
Columns that are the same or empty in every row are left out.

With --layers instead: the mean relative error of the layers of each last name, for runs whose layers.csv knows it.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Callable[[Iterable[str], Sequence[Mapping[str, Any]]], dict[str, str]]

SHOWN = ("error_before", "relative_error", "corrector_applied", "corrector_clamped")


def label(result: Mapping[str, Any]) -> tuple[str, ...]:
    """What the run's own words of the command line chose, without the seed and without options that its method does not read."""
    words = [word.lstrip("+") for word in result["overrides"]]
    unread = () if "TfIdf" in result["composition"]["method"] else ("tfidf",)
    return tuple(word for word in words if not word.startswith(("seed=", "name=", "rerun=", *unread)))


def spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    if len({round(value, 6) for value in values}) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {statistics.stdev(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def row(label: Iterable[str], runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The cells of the runs of one composition, ordered by seed."""
    runs = sorted(runs, key=lambda run: run["calibration"]["seed"])
    cells = {"": " ".join(label), "seeds": ", ".join(str(run["calibration"]["seed"]) for run in runs)}
    cells["perplexity"] = spread([run["perplexity"]["pruned"] for run in runs])
    for name in SHOWN:
        known = [value for run in runs if (value := run["layers"].get(f"{name}_mean")) is not None]
        cells[name.replace("_", " ")] = f"{statistics.mean(known):.4f}" if known else ""
    for stage in ("calibrate", "prune"):
        cells[f"{stage}, s"] = f"{statistics.median([run['seconds'][stage] for run in runs]):.0f}"
    return cells


def layer_row(label: Iterable[str], runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The mean relative error by the layers' last names."""
    errors: dict[str, list[float]] = {}
    for run in runs:
        for layer in run["rows"]:
            if layer["relative_error"]:
                errors.setdefault(layer["name"].rpartition(".")[2], []).append(float(layer["relative_error"]))
    return {"": " ".join(label), **{name: f"{statistics.mean(found):.4f}" for name, found in errors.items()}}


def table(results: Sequence[Mapping[str, Any]], row: Row = row) -> str:
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(label(result), []).append(result)
    common = set.intersection(*(set(key) for key in groups)) if len(groups) > 1 else set()
    rows = [row((word for word in key if word not in common), runs) for key, runs in groups.items()]
    names = dict.fromkeys(name for cells in rows for name in cells)
    columns = [name for name in names if name in ("", "perplexity") or len({cells.get(name) for cells in rows}) > 1]
    lines = [columns, ["---"] * len(columns), *([cells.get(name, "") for name in columns] for cells in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def read(path: Path) -> dict[str, Any]:
    """A result, with the rows of its layer table as `rows`."""
    with path.with_name("layers.csv").open(encoding="utf-8", newline="") as file:
        return {**json.loads(path.read_text(encoding="utf-8")), "rows": list(csv.DictReader(file))}


def main(words: Sequence[str]) -> None:
    folders = [word for word in words if word != "--layers"]
    found = (path for folder in folders for path in Path(folder).rglob("result.json"))
    paths = sorted(found, key=lambda path: path.stat().st_mtime)  # in the order in which the runs finished
    if not paths:
        sys.exit(
            f"no result.json below {', '.join(folders) or 'nothing'}: name a folder of finished runs, as outputs/<name>"
        )
    print(table([read(path) for path in paths], layer_row if "--layers" in words else row))


if __name__ == "__main__":
    main(sys.argv[1:])

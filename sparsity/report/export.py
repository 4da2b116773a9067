"""The runs as a Markdown table, for the README of a study, and as a CSV file, for everything else.

In Markdown, runs that differ only in their seed make one row: the mean, the sample standard deviation and the perplexity of each
run. Columns with the same value in every row, or none, are left out. The CSV has one row per run and all columns.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..measures import said
from ..record.store import csv_text
from . import options
from .gather import Composition, Group
from .measures import PERPLEXITY
from .options import heading
from .protocol import varying
from .read import Problem, number

CONSTANT_TOO = ("", "perplexity")  # columns that are never left out
IN_MARKDOWN = {"layers.error_before_mean": "error before", "layers.relative_error_mean": "relative error"}
CORRECTORS = ("layers.corrector_applied", "layers.corrector_clamped")  # facts of correctors that a table has
# Of these the median is shown: one run that had to wait says nothing of the others.
SECONDS = {"seconds.calibrate": "calibrate, s", "seconds.prune": "prune, s"}


def spread(values: Sequence[float]) -> str:
    """The mean, the sample standard deviation and the values: "71.01 ± 0.24 (70.94, 70.82, 71.28)". Equal values: the mean."""
    mean = statistics.mean(values)
    if len({round(value, 6) for value in values}) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {statistics.stdev(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def markdown(groups: Sequence[Group], problems: Sequence[Problem]) -> str:
    """A table for each protocol, with the layers' errors below it if they are known, and at the end the problems in reading."""
    differ = varying(group.conditions for group in groups)
    parts = []
    for group in groups:
        if len(groups) > 1:
            conditions = "; ".join(f"{name} {group.conditions[name]}" for name in differ)
            parts.append(f"**Protocol {group.name}** ({conditions})")
        parts.append(table([_row(group, composition) for composition in group.compositions]))
        layers = [cells for composition in group.compositions if len(cells := _layer_row(group, composition)) > 1]
        if layers:
            parts.append("Mean relative error of the layers, by the last part of their name:")
            parts.append(table(layers))
        if group.usual:
            parts.append(f"Unless a row says otherwise: `{_usual(group)}`.")
        repeats = sum(composition.repeats for composition in group.compositions)
        if repeats:
            runs = (
                "run with the same seed and options is" if repeats == 1 else "runs with the same seed and options are"
            )
            parts.append(f"{repeats} earlier {runs} not counted.")
    parts += [f"- {problem.where}: {problem.what}" for problem in problems]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table with the columns of all rows. A row may lack some of them."""
    names = dict.fromkeys(name for cells in rows for name in cells)
    columns = [name for name in names if name in CONSTANT_TOO or len({cells.get(name) for cells in rows}) > 1]
    lines = [columns, ["---"] * len(columns), *([cells.get(name, "") for name in columns] for cells in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |" for cells in lines)


def _row(group: Group, composition: Composition) -> dict[str, str]:
    runs = [group.numbers[i] for i in composition.seeds.values()]
    cells = {"": _code(composition), "seeds": ", ".join(composition.seeds)}
    perplexities = _known(runs, PERPLEXITY)
    cells["perplexity"] = spread(perplexities) if perplexities else ""
    for measure in group.measures:
        known = _known(runs, measure.name)
        name = IN_MARKDOWN.get(measure.name, measure.title)
        if measure.name in IN_MARKDOWN or measure.name.startswith(CORRECTORS):
            cells[name] = said(statistics.mean(known), measure.unit, 4) if known else ""
        elif measure.name.startswith("evaluation.") and not measure.folded:
            cells[name] = said(statistics.mean(known), measure.unit, measure.digits) if known else ""
    for key, name in SECONDS.items():
        known = _known(runs, key)
        cells[name] = f"{statistics.median(known):.0f}" if known else ""
    return cells


def _layer_row(group: Group, composition: Composition) -> dict[str, str]:
    errors: dict[str, list[float]] = {}
    for i in composition.seeds.values():
        for layer in group.runs[i].tables["layers"]:
            error = number(layer.get("relative_error"))
            if error is not None:
                errors.setdefault(layer.get("name", "").rpartition(".")[2], []).append(error)
    return {"": _code(composition), **{name: f"{statistics.mean(found):.4f}" for name, found in errors.items()}}


def _code(composition: Composition) -> str:
    return f"`{composition.words}`" if composition.words else "all runs"


def _usual(group: Group) -> str:
    return " ".join(f"{heading(name)}={value}" for name, value in group.usual.items())


def _known(runs: Sequence[Mapping[str, float]], key: str) -> list[float]:
    return [run[key] for run in runs if key in run]


def table_csv(groups: Sequence[Group]) -> str:
    """A CSV with one row per run: protocol, every option that differs somewhere, every number, folder and command."""
    runs = [run for group in groups for run in group.runs]
    tables = options.tables(runs)
    names = options.differing(runs, tables)  # between all of them: a group alone may have but one method
    keys = dict.fromkeys(measure.name for group in groups for measure in group.measures)
    places = [(group, i) for group in groups for i in range(len(group.runs))]
    rows = []
    for (group, i), run, own in zip(places, runs, tables, strict=True):
        row: dict[str, Any] = {"run": run.where, "time": run.time, "protocol": group.name, **group.conditions}
        row |= {heading(name): own.get(name) for name in names}
        row |= {key: group.numbers[i].get(key) for key in keys}
        rows.append(row | {"command": run.result.command, "overrides": " ".join(run.overrides)})
    return csv_text(rows)

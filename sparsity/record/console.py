"""The display in the terminal: a progress bar with the current layer and the time left, then the numbers of the finished run.

If the output is not a terminal (a log file), a line every half minute replaces the bar.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..measures import Measure
from .groups import PRUNING, mentioned
from .result import Result

if TYPE_CHECKING:  # the report imports this module and must not load a model
    from ..core import Site


class OfALayer(Protocol):
    """A report about one layer."""

    @property
    def site(self) -> Site:
        """The layer's site."""
        ...


R = TypeVar("R", bound=OfALayer)

console = Console(highlight=False, soft_wrap=True)
LOG_EVERY = 30.0  # seconds
GAP = 2  # between two columns


def say(line: str) -> None:
    """Print a line to the terminal."""
    console.print(line, markup=False)


def busy(doing: str) -> AbstractContextManager[Any]:
    """A context that shows a spinner, for work that has no progress bar."""
    return console.status(doing)


def progress(reports: Iterator[R], sites: int, blocks: int, before: int) -> Iterator[R]:
    """Yields the reports and shows the progress. `before`: the number of layers that an interrupted run had already done."""
    columns = (
        TextColumn("pruning"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[layer]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, start = bar.add_task("pruning", total=sites, completed=before, layer=""), time.monotonic()
        said = start
        for done, report in enumerate(reports, start=before + 1):
            bar.update(task, completed=done, layer=report.site.name)
            now = time.monotonic()
            if not console.is_terminal and now - said > LOG_EVERY:
                left = (now - start) / (done - before) * (sites - done)
                say(f"pruned {done}/{sites} layers, block {report.site.block + 1}/{blocks}, {left:.0f} s left")
                said = now
            yield report


def table(result: Result, folder: Path) -> None:
    """Print a finished run: its numbers in lines that fit the terminal, and below them every evaluation."""
    say("\n" + " · ".join([str(result.model.name), *mentioned(result.choices, *PRUNING)]))
    lines(_cells(result))
    perplexity, sparsity, layers = result.evaluation.get("perplexity"), result.sparsity, result.layers
    if result.perplexity.dense is not None and perplexity and "windows" in perplexity:
        text = result.choices.get("dataset", "the evaluation text")
        say(f"dense, pruned: perplexity, {perplexity['windows']} windows of {perplexity['seqlen']} tokens of {text}")
    evaluations(result.measures)
    say(f"asked, found: zeros in {sparsity.layers} of {layers.all} layers; recounted in the model")
    say("seconds: " + ", ".join(f"{stage} {seconds or 0:.1f}" for stage, seconds in result.seconds.items()))
    say(f"files: {folder}")


def _cells(result: Result) -> dict[str, str]:
    """The first line of the table: name -> number."""
    told = {measure.name: measure.told() for measure in result.all_measures}
    error, unseen = result.layers.relative_error_mean, result.layers.held_out_error_mean
    return {
        "dense": told.get("perplexity.dense", "-"),
        "pruned": told.get("perplexity.pruned", "-"),
        "rise": told.get("rise", "-"),
        "asked": told.get("sparsity.asked", "-"),
        "found": told.get("sparsity.found", "-"),
        "layer error": "-" if error is None else f"{error:.3f}",
        **({} if unseen is None else {"held out": f"{unseen:.3f}"}),
        "seconds": f"{result.total_seconds:.1f}",
        "peak memory": told.get("peak_memory_bytes", "-"),
    }


def lines(cells: Mapping[str, str], into: Console = console) -> None:
    """Print a row of cells under their names. Cells that do not fit the width go into another row below; none is cut."""
    rows: list[list[str]] = [[]]
    width = 0
    for name, value in cells.items():
        needed = max(cell_len(name), cell_len(value)) + GAP
        if rows[-1] and width + needed - GAP > into.width:
            rows.append([])
            width = 0
        rows[-1].append(name)
        width += needed
    for names in rows:
        view = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        for name in names:
            view.add_column(name, no_wrap=True, overflow="ignore")
        view.add_row(*(cells[name] for name in names))
        into.print(view)


def evaluations(measures: Iterable[Measure], into: Console = console) -> None:
    """Print the results of the evaluations, without the perplexity: a line for each number, with both models' values."""
    rows: dict[str, dict[str, Measure]] = {}  # "cost bytes" -> which model -> its number
    for measure in measures:
        section, _, rest = measure.name.partition(".")
        if section == "evaluation":
            evaluator, _, path = rest.partition(".")
            which, _, short = path.partition(".")
            which, short = (which, short) if which in ("dense", "pruned") and short else ("pruned", path)
            rows.setdefault(f"{evaluator} {short.replace('.', ' ')}".strip(), {})[which] = measure
    cells = [
        (name, *(found[which].told() if which in found else "" for which in ("dense", "pruned")), _better(found))
        for name, found in rows.items()
    ]
    head = ("evaluation", "dense", "pruned", "better")
    widths = [max(cell_len(row[i]) for row in [head, *cells]) for i in range(len(head))]
    if cells and sum(widths) + GAP * (len(head) - 1) <= into.width:
        view = Table(*head, box=None, padding=(0, GAP, 0, 0), pad_edge=False)
        for row in cells:
            view.add_row(*(Text(cell) for cell in row))  # Text: rich would read a name in brackets as markup
        into.print(view)
        return
    for name, dense, pruned, better in cells:
        into.print(name + (f", {better} is better" if better else ""), markup=False)
        into.print("  " + ", ".join(filter(None, [dense and f"dense {dense}", f"pruned {pruned}"])), markup=False)


def _better(found: Mapping[str, Measure]) -> str:
    return next((measure.better for measure in found.values() if measure.better), "")

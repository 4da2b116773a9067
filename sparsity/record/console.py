"""The output in the terminal: a progress bar with the current layer and the time left, then one table.

If the output is not a terminal (a log file), a line every half minute replaces the bar.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .groups import PRUNING, mentioned

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


def table(result: Mapping[str, Any], folder: Path) -> None:
    """Print the result of a finished run as one table."""
    sparsity, perplexity, layers = result["sparsity"], result["perplexity"], result["layers"]
    say("\n" + " · ".join([result["model"]["name"], *mentioned(result["choices"], *PRUNING)]))

    cells = {"dense": "-", "pruned": "-", "rise": "-"}
    if perplexity["dense"] is not None:
        rise = perplexity["pruned"] / perplexity["dense"] - 1
        cells = {"dense": f"{perplexity['dense']:.2f}", "pruned": f"{perplexity['pruned']:.2f}", "rise": f"{rise:+.1%}"}
    cells |= {
        "asked": f"{sparsity['asked']:.2%}",
        "found": f"{sparsity['found']:.2%}",
        "layer error": "-" if layers["relative_error_mean"] is None else f"{layers['relative_error_mean']:.3f}",
        **({} if (unseen := layers.get("held_out_error_mean")) is None else {"held out": f"{unseen:.3f}"}),
        "seconds": f"{sum(result['seconds'].values()):.1f}",
        "peak memory": f"{result['peak_memory_bytes'] / 2**30:.2f} GiB",
    }
    view = Table(box=None, padding=(0, 2, 0, 0))
    for name in cells:
        view.add_column(name, no_wrap=True)
    view.add_row(*cells.values())
    console.print(view)

    if perplexity["dense"] is not None:
        windows, text = result["evaluation"]["perplexity"], result["choices"]["dataset"]
        say(f"dense, pruned: perplexity, {windows['windows']} windows of {windows['seqlen']} tokens of {text}")
    if "lm_eval" in result["evaluation"]:
        _tasks(result["evaluation"]["lm_eval"])
    say(f"asked, found: zeros in {sparsity['layers']} of {layers['all']} layers; recounted in the model")
    say("seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result["seconds"].items()))
    say(f"files: {folder}")


def _tasks(found: Mapping[str, Any]) -> None:
    """Print every metric of every task for both models, with its standard error if there is one."""
    view = Table("task", "metric", "dense", "pruned", box=None, padding=(0, 2, 0, 0))
    for task, metrics in found["pruned"].items():
        for metric in (name for name in metrics if "_stderr" not in name):
            base, _, filtered = metric.partition(",")  # "exact_match,strict-match"
            error = f"{base}_stderr" + (f",{filtered}" if filtered else "")
            cells = (
                f"{values[metric]:.4g}" + (f" ± {values[error]:.2g}" if error in values else "")
                for values in (found["dense"][task], metrics)
            )
            view.add_row(task, metric, *cells)
    console.print(view)

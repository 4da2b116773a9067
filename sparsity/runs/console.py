"""What a person sees: a bar over the blocks with the layer at work, then one table. A log file gets a line per tenth instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..engine import LayerReport, Plan
from ..models.decoder import Decoder

console = Console(highlight=False, soft_wrap=True)


def say(line: str) -> None:
    console.print(line, markup=False)


def progress(reports: Iterator[LayerReport], sites: int, blocks: int) -> Iterator[LayerReport]:
    """Passes the reports on while showing where they come from."""
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
        task = bar.add_task("pruning", total=sites, layer="")
        for done, report in enumerate(reports, start=1):
            bar.update(task, completed=done, layer=report.site.name)
            if not console.is_terminal and done * 10 // sites > (done - 1) * 10 // sites:
                say(f"pruned {done}/{sites} layers, block {report.site.block + 1}/{blocks}")
            yield report


def table(result: Mapping[str, Any], folder: Path) -> None:
    """The run in one table."""
    sparsity, seconds, perplexity = result["sparsity"], result["seconds"], result["perplexity"]
    rows = {"model": result["model"]["name"], "method": " + ".join(result["choices"].values())}
    if perplexity["dense"] is not None:
        rise = perplexity["pruned"] / perplexity["dense"] - 1
        protocol = result["evaluation"]["perplexity"]
        rows |= {
            "perplexity": f"dense {perplexity['dense']:.2f} -> pruned {perplexity['pruned']:.2f} (rise {rise:+.1%})",
            "": f"{protocol['windows']} windows of {protocol['seqlen']} tokens of {result['dataset']['name']}",
        }
    error = result["layers"]["relative_error_mean"]
    if error is not None:
        rows["layer error"] = f"mean {error:.3f} over {result['layers']['count']} layers (0 = dense, 1 = all removed)"
    rows |= {
        "sparsity": f"{sparsity['layers']} layers, {sparsity['asked']:.2%} asked, {sparsity['found']:.2%} found",
        "seconds": ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()),
        "peak memory": f"{result['peak_memory_bytes'] / 2**30:.2f} GiB",
        "files": str(folder),
    }
    view = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in rows.items():
        view.add_row(name, value)
    console.print(view)


def describe_plan(decoder: Decoder, plan: Plan, asked: Mapping[str, float], text: Mapping[str, Any], memory: Mapping[str, int]) -> None:
    """What a run would do, without doing it."""
    layers = Table("layers", "shape", "count", "asked", "statistics", box=None, padding=(0, 2, 0, 0))
    kinds: dict[tuple[Any, ...], int] = {}
    for site, taps in plan.needs.items():
        shape = " x ".join(map(str, decoder.layer(site).weight_OI.shape))
        statistics = ", ".join(str(tap.statistic) for tap in taps) or "none"
        kind = (f"{site.role} {site.leaf}", shape, f"{asked[site.name]:.2%}", statistics)
        kinds[kind] = kinds.get(kind, 0) + 1
    for (name, shape, fraction, statistics), count in kinds.items():
        layers.add_row(name, shape, str(count), fraction, statistics)
    console.print(layers)
    passes = f"blocks 0 to {plan.last} are run on it" if plan.last >= 0 else "not read: nothing asks for it"
    say(f"\ncalibration  {', '.join(f'{k}={v}' for k, v in text.items())}; {passes}")
    say("memory       " + ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in memory.items()))
    for name, shape in decoder.unpruned.items():
        say(f"not pruned   {name} {shape}: no linear layer's weight")

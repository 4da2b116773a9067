"""The plan of a run, without doing it: its parts in words, layers, statistics, text, and the bytes that it will hold."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable

from rich.table import Table

from ..core import Site
from ..engine import Plan
from ..models import Decoder
from ..record.console import console, say
from ..stages.job import Job
from .composition import composition

INDENT = 13  # columns for the name of a part
WIDEST = 100


def preview(job: Job, decoder: Decoder, plan: Plan, told: Iterable[str]) -> None:
    """Print the plan of a job. `told`: lines about the resources that it will need."""
    settings, parts = job.settings, job.parts
    width = max(60, min(console.width, WIDEST))
    for part, lines in composition(job.config, job.place.choices):
        for number, line in enumerate(lines):
            first = f"{'' if number else part:<{INDENT}}"
            say(
                textwrap.fill(
                    line, width, initial_indent=first, subsequent_indent=" " * (INDENT + 2), break_on_hyphens=False
                )
            )
    say("")

    def kind(site: Site) -> tuple[str, str, str, str]:
        shape = " x ".join(map(str, decoder.layer(site).weight_OI.shape))
        if site.role == "head":
            return f"{site.role} {site.leaf}", shape, f"{plan.patterns[site].sparsity:.2%}", "none"
        inside = f"{decoder.blocks[site.block].name}."
        statistics = "\n".join(str(tap).replace(inside, "") for tap in plan.needs[site])
        return (
            f"{site.role} {site.leaf}",
            shape,
            f"{plan.method.asked(site, plan.patterns[site]):.2%}",
            statistics or "none",
        )

    layers = Table("layers", "outputs x inputs", "asked", box=None, padding=(0, 3, 0, 0))
    layers.add_column("statistics", overflow="fold")
    layers.add_column("count")
    for cells, count in Counter(kind(site) for site in plan.sites).items():
        layers.add_row(*cells, str(count))
    console.print(layers)

    calibration = settings.calibration
    text = f"{calibration.num_sequences} sequences of {calibration.seqlen} tokens, seed {calibration.seed}"
    if calibration.written:
        text += f", and {calibration.written} more that the model writes"
    if calibration.held_out:
        text += f", and {calibration.held_out} to measure the layers' errors on"
    passes = f"run through blocks 0 to {plan.last}" if plan.last >= 0 else "not read: nothing asks for it"
    say(f"\ntext         {parts.dataset}")
    say(f"calibration  {text}, propagate={calibration.propagate}; {passes}")
    if parts.allocation.measurement is not None:
        say(f"allocation   {parts.allocation}: measured in the run; what is asked above is the mean")
    for name, evaluator in parts.evaluation.items():
        say(f"evaluation   {name}: {evaluator}")
    for line in told:
        say(line)
    for name, shape in decoder.unpruned.items():
        say(f"not pruned   {name} {shape}: no linear layer's weight")

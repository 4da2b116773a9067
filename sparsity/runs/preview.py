"""What a run would do, without doing it: layers, statistics, text, and the bytes that it will hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ..core import Site
from ..engine import Plan
from ..models import Decoder
from .build import Parts
from .console import console, say
from .settings import Settings


def preview(settings: Settings, parts: Parts, decoder: Decoder, plan: Plan) -> None:
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
    passes = f"run through blocks 0 to {plan.last}" if plan.last >= 0 else "not read: nothing asks for it"
    say(f"\ntext         {parts.dataset}")
    say(f"calibration  {text}, propagate={calibration.propagate}; {passes}")
    if parts.allocation.measurement is not None:
        say(f"allocation   {parts.allocation}: measured in the run; what is asked above is the mean")
    for name, evaluator in parts.evaluation.items():
        say(f"evaluation   {name}: {evaluator}")
    say(
        "memory       "
        + ", ".join(f"{what} {held / 2**20:,.1f} MiB" for what, held in memory(settings, decoder, plan).items())
    )
    for name, shape in decoder.unpruned.items():
        say(f"not pruned   {name} {shape}: no linear layer's weight")


def memory(settings: Settings, decoder: Decoder, plan: Plan) -> dict[str, int]:
    """Bytes by what holds them. Statistics are an upper bound: layers that turn out to see the same tensors share them."""
    parameters = list(decoder.model.parameters())
    element = parameters[0].element_size()
    calibration = settings.calibration
    tokens = calibration.num_sequences * calibration.seqlen if plan.last >= 0 else 0
    hidden = decoder.model.config.get_text_config(decoder=True).hidden_size
    statistics = Counter[int]()
    for site, taps in plan.needs.items():
        for tap in taps:
            width = decoder.blocks[site.block].width(site, *tap.source(site))
            x_BTI = torch.empty(1, 1, width, dtype=parameters[0].dtype, device="meta")
            grouping = tap.statistic.grouping
            rows = grouping.rows(calibration.num_sequences, calibration.seqlen) if grouping else 0
            statistics[site.block] += _bytes(tap.statistic.zero(x_BTI, rows))
    return {
        "weights": sum(p.numel() * p.element_size() for p in parameters),
        "one block": max(sum(p.numel() for p in block.module.parameters()) for block in decoder.blocks) * element,
        "statistics of a block": max(statistics.values(), default=0),
        "hidden states": tokens * hidden * element,
    }


def _bytes(state: Any) -> int:
    parts = state if isinstance(state, tuple) else (state,)
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))

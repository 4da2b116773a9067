"""What a run will hold, in bytes, before it holds it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ..engine import Plan
from ..models import Decoder
from ..stream import Needs
from .settings import Calibration, Settings


def memory(settings: Settings, decoder: Decoder, plan: Plan) -> dict[str, int]:
    """Bytes by what holds them. Statistics are an upper bound: layers that turn out to see the same tensors share them."""
    parameters = list(decoder.model.parameters())
    element = parameters[0].element_size()
    calibration = settings.calibration
    tokens = (calibration.sequences + calibration.held_out) * calibration.seqlen if plan.last >= 0 else 0
    hidden = decoder.model.config.get_text_config(decoder=True).hidden_size
    return {
        "weights": sum(p.numel() * p.element_size() for p in parameters),
        "one block": max(sum(p.numel() for p in block.module.parameters()) for block in decoder.blocks) * element,
        "statistics of a block": max(statistics(calibration, decoder, plan.needs).values(), default=0),
        "hidden states": tokens * hidden * element,
    }


def statistics(calibration: Calibration, decoder: Decoder, needs: Needs) -> Counter[int]:
    """Bytes by block."""
    held = Counter[int]()
    for site, taps in needs.items():
        for tap in taps:
            width = decoder.blocks[site.block].width(site, *tap.source(site))
            x_BTI = torch.empty(1, 1, width, dtype=decoder.embedding_VE.dtype, device="meta")
            grouping = tap.statistic.grouping
            rows = grouping.rows(calibration.sequences, calibration.seqlen) if grouping else 0
            held[site.block] += _bytes(tap.statistic.zero(x_BTI, rows))
    return held


def _bytes(state: Any) -> int:
    parts = state if isinstance(state, tuple) else (state,)
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))

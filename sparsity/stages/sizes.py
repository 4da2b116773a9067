"""The sizes of a model, from its shapes alone: bytes, weights, operations per token, and the statistics of its blocks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core import Site, Tap
from ..models import Decoder
from ..options.settings import Calibration
from ..stream import Needs

TUNED = 6  # float32 numbers for each tuned weight: a copy, its gradient, Adam's two moments, the best value, and the next value
KEPT = 3  # times a layer's outputs, kept for a gradient: inputs, outputs and intermediate results


@dataclass(frozen=True)
class Shapes:
    """The sizes of a model, in bytes of its own dtype and in numbers of weights."""

    outside: int  # bytes outside the blocks
    blocks: int  # bytes of all blocks
    block: int  # bytes of the largest block
    linear: int  # weights of the linear layers of the largest block
    outputs: int  # outputs of these layers together
    layer: int  # weights of the largest linear layer
    width: int  # of a hidden state
    vocabulary: int  # number of tokens
    element: int  # bytes of a number

    @property
    def weights(self) -> int:
        return self.outside + self.blocks

    def operations(self, seqlen: int) -> int:
        """Operations for a token in a block, in a sequence of `seqlen` tokens."""
        return 2 * self.linear + 4 * seqlen * self.width

    @property
    def logits(self) -> int:
        """Operations for the logits of a token."""
        return 2 * self.vocabulary * self.width


def shapes(decoder: Decoder) -> Shapes:
    """The sizes of this model."""
    of_blocks = [sum(map(bytes_of, block.module.parameters())) for block in decoder.blocks]
    layers = [[block.layer(site).weight_OI for site in block.linears] for block in decoder.blocks]
    embedding_VE = decoder.embedding_VE
    return Shapes(
        outside=sum(map(bytes_of, decoder.model.parameters())) - sum(of_blocks),
        blocks=sum(of_blocks),
        block=max(of_blocks),
        linear=max(sum(weight_OI.numel() for weight_OI in its) for its in layers),
        outputs=max(sum(len(weight_OI) for weight_OI in its) for its in layers),
        layer=max(weight_OI.numel() for its in layers for weight_OI in its),
        width=decoder.model.config.get_text_config(decoder=True).hidden_size,
        vocabulary=len(embedding_VE),
        element=embedding_VE.element_size(),
    )


def statistics(calibration: Calibration, decoder: Decoder, needs: Needs) -> Counter[int]:
    """Bytes of the statistics, by block. Layers that see the same tensors share a state."""
    return _summed(calibration, decoder, needs, lambda state: sum(map(bytes_of, _tensors(state))))


def products(calibration: Calibration, decoder: Decoder, needs: Needs) -> Counter[int]:
    """Operations per token for the statistics, by block. A matrix of n x n costs n^2: half of an outer product, by symmetry."""
    return _summed(calibration, decoder, needs, lambda state: sum(t.numel() for t in _tensors(state) if t.ndim == 2))


def largest(calibration: Calibration, decoder: Decoder, needs: Needs) -> int:
    """Bytes of the largest tensor in the statistics."""
    states = _states(calibration, decoder, needs)
    return max((bytes_of(tensor) for _, state in states for tensor in _tensors(state)), default=0)


def _summed(calibration: Calibration, decoder: Decoder, needs: Needs, of: Callable[[Any], int]) -> Counter[int]:
    summed = Counter[int]()
    for block, state in _states(calibration, decoder, needs):
        summed[block] += of(state)
    return summed


def _states(calibration: Calibration, decoder: Decoder, needs: Needs) -> Iterator[tuple[int, Any]]:
    """Yield the block and the state of each statistic. Its tensors are on the meta device and take no memory."""
    seen: set[tuple[Any, ...]] = set()
    for site, taps in needs.items():
        for tap in taps:
            key = (site.block, _source(site, tap), tap.statistic)
            if key in seen:
                continue
            seen.add(key)
            width = decoder.blocks[site.block].width(site, *tap.source(site))
            x_BTI = torch.empty(1, 1, width, dtype=decoder.embedding_VE.dtype, device="meta")
            grouping = tap.statistic.grouping
            rows = grouping.rows(calibration.sequences, calibration.seqlen) if grouping else 0
            yield site.block, tap.statistic.zero(x_BTI, rows)


def _source(site: Site, tap: Tap[Any]) -> tuple[str, str]:
    """A name for the tensor that the tap sees. Layers whose rows are neurons of one attention or one MLP have the same input."""
    if tap.of is None and tap.side == "input" and site.neurons is not None and site.neurons.axis == "row":
        return "input", site.role if site.role == "attention" else site.neurons.module
    return tap.source(site)


def _tensors(state: Any) -> list[Tensor]:
    return [part for part in (state if isinstance(state, tuple) else (state,)) if isinstance(part, Tensor)]


def bytes_of(x_ANY: Tensor) -> int:
    """The bytes of a tensor's elements."""
    return x_ANY.numel() * x_ANY.element_size()


class Tunes(Protocol):
    """A refinement or a recovery, which may tune weights."""

    def passes(self, batches: int) -> int:
        """The largest number of forward passes of a batch; a backward pass counts as two."""
        ...


def tokens_of_tuning(part: Tunes, calibration: Calibration) -> int:
    """The number of tokens that a part reads to tune weights. Those of a backward pass count twice."""
    batches = math.ceil(calibration.sequences / calibration.batch_size)
    return part.passes(batches) * calibration.batch_size * calibration.seqlen

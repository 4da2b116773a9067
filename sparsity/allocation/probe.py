"""The cost of pruning a few layers alone: the mean divergence of the model's predictions from those of the dense model.

Pruning a layer does not change the hidden states in front of its block. So a probe runs only the blocks from that of its first
layer on, and the head: half the model on average. Memory: the model, and the hidden states in front of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..core import Layer, Site
from ..models import Decoder
from ..predictions import divergence
from ..stream import BlockStream


def divergences(
    decoder: Decoder,
    ids_BT: Tensor,
    groups: Sequence[Sequence[Site]],
    pruned: Callable[[Layer], Tensor],
    device: torch.device,
) -> Tensor:
    """The divergence (G,) from the dense model, in nats per predicted token, when only the layers of one group are pruned.

    `groups`: the layers of each group, in the order of the model. `pruned`: gives the pruned weight of a layer. Afterwards the
    model is unchanged, to the last bit.
    """
    kl_G = torch.zeros(len(groups), dtype=torch.float64)
    with decoder.on(device):
        stream = BlockStream(decoder, ids_BT, batch_size=1, propagate="pruned", device=device)
        first = list(stream.hidden)
        dense = _behind(stream, 0)
        stream.hidden = first
        for block in stream.blocks:
            here = list(stream.hidden)
            for number, group in enumerate(groups):
                if group[0].block == block.index:
                    with _changed(decoder, group, pruned):
                        behind = _behind(stream, block.index)
                    kl_G[number] = _mean_kl(decoder, ids_BT, dense, behind)
                    stream.hidden = list(here)
            stream.advance(block)
    return kl_G


def _behind(stream: BlockStream, start: int) -> list[Tensor]:
    """The hidden states behind the last block, from those in front of block `start`."""
    for block in stream.blocks[start:]:
        stream.advance(block)
    return stream.hidden


def _mean_kl(decoder: Decoder, ids_BT: Tensor, dense: Sequence[Tensor], pruned: Sequence[Tensor]) -> float:
    parts = [
        divergence(decoder, ids_BT[i : i + 1], dense_BTI, pruned_BTI)[0]
        for i, (dense_BTI, pruned_BTI) in enumerate(zip(dense, pruned, strict=True))
    ]
    return torch.cat(parts).mean().item() / (ids_BT.shape[1] - 1)


@contextmanager
def _changed(decoder: Decoder, group: Sequence[Site], change: Callable[[Layer], Tensor]) -> Iterator[None]:
    dense = {site: decoder.layer(site).weight_OI.clone() for site in group}
    try:
        for site in group:
            decoder.blocks[site.block].write(site, change(decoder.layer(site)))
        yield
    finally:
        for site, weight_OI in dense.items():
            decoder.blocks[site.block].write(site, weight_OI)

"""What it costs the whole model to prune a few layers alone: the mean divergence of its predictions from the dense model's.

The hidden states in front of a block are the dense model's until a layer of it is pruned, so a probe runs the blocks from its first
layer's on, and the head: on the mean half the model. Memory: the model, and the hidden states in front of one block.
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
    """KL (G,) from the dense model in nats per predicted token, with the layers of one group at a time as `pruned` makes them.

    Each group in the order of the model. The model is left as it was found, to the last bit.
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

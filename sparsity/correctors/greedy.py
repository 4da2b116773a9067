"""Greedy: coordinate descent over selected input channels, one channel at a time, all outputs at once.

With P = (W - W0) G, a change d of weight (o, j) changes L by 2 d P_oj + d^2 g_j, which is a gain if it is negative. Each survivor
of channel j takes
    step = c         d = -c |W0_oj| sign(P_oj), the better of the two directions, if that is a gain;
    step = optimal   d = -P_oj / g_j, the exact minimum along the coordinate; a channel without input (g_j = 0) is skipped.
Then P changes by d G_j:. This equals descent on the residual R = X (W - W0)' of every token, since P = R'X, but R is never
computed.

Only the selected columns of P are held: O(O I |S|) to compute and O(O |S|^2) to update. Inside a panel of channels the updates
are rank-1; the effect of a panel on all others is one product, as in SparseGPT's sweep. `early_stop` ends at the first channel
with input whose summed gain is below `tolerance` times the current loss; the loss of the given weights costs one O(O I^2)
product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..core import Corrected, Layer, Pruned, Site, Stats
from ..linalg import wide
from ..ranges import Range, Share, checked
from .channels import Channels, columns, seen, take
from .selection import GRAM, Salience, Select, Selective

PANEL = 128  # number of channels between two products, and between two checks of the gains

Part = Annotated[float, Range(least=0, most=1, such=0.01)]
Passes = Annotated[int, Range(least=1, cap=10**4, such=1)]
Move = Callable[[int, Tensor], Tensor]  # (channel s, its -P (O,)) -> the changes d (O,)


@dataclass(frozen=True)
@checked
class Greedy(Selective):
    """The corrector by coordinate descent over selected input channels."""

    select: Select
    fraction: Share  # of the channels with a survivor
    salience: Salience
    step: Part | Literal["optimal"]  # a fraction of |W0|, or the exact minimum
    early_stop: bool
    tolerance: Part  # the share of the current loss that a channel must gain, with `early_stop`
    passes: Passes

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """A product for each pass over all channels."""
        return self.passes * (1.0 if self.select == "all" else self.fraction) + 0.5

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Corrected:
        chosen = self.selection.choose(stats, pruned.keep_OI)
        gram_II, channel_S = stats[GRAM].gram_II, chosen.channel_S
        dtype = torch.promote_types(gram_II.dtype, wide(layer.weight_OI.dtype))
        gram_SI = gram_II.index_select(0, channel_S).to(dtype)
        change_OI = pruned.weight_OI.to(dtype) - layer.weight_OI
        if self.early_stop:
            slope_OI = change_OI @ gram_II.to(dtype)
            loss_O = change_OI.mul_(slope_OI).sum(1)
            slope_SO = columns(slope_OI, channel_S)
        else:
            loss_O = None
            slope_SO = gram_SI @ change_OI.T
        at = seen(layer, pruned, channel_S, gram_SI, slope_SO)
        move = optimal(at) if self.step == "optimal" else either_way(at, self.step)
        step_SO = descend(at, move, self.passes, loss_O, self.tolerance)
        corrected = take(layer, pruned, gram_II, channel_S, at, step_SO)
        return Corrected(corrected.weight_OI, {**chosen.facts, **corrected.facts})


def lively(gram_SS: Tensor) -> Tensor:
    """The mask (S,) of the channels with input: g_j > 0, and not so small that 1 / g_j overflows."""
    return gram_SS.diagonal() >= torch.finfo(gram_SS.dtype).tiny


def either_way(at: Channels, step: float) -> Move:
    """The move of a fixed size s = step |W0|: d = s sign(-P) where that is a gain, 2 |P| > s g, otherwise 0."""
    size_SO = (step * at.dense_SO.abs()).mul_(at.keep_SO)
    least_SO = size_SO * (at.gram_SS.diagonal()[:, None] / 2)
    return lambda s, down_O: torch.copysign(size_SO[s], down_O).masked_fill_(down_O.abs() <= least_SO[s], 0)


def optimal(at: Channels) -> Move:
    """The exact move d = -P / g of the survivors; 0 in a channel without input."""
    g_S1 = at.gram_SS.diagonal()[:, None]
    rate_SO = torch.where(at.keep_SO & lively(at.gram_SS)[:, None], 1 / g_S1, 0)
    return lambda s, down_O: down_O * rate_SO[s]


def descend(at: Channels, move: Move, passes: int, loss_O: Tensor | None, tolerance: float) -> Tensor:
    """The summed changes (S, O) of all passes. With the loss of each row (`loss_O`), it may stop early, checked once per panel."""
    loss = None if loss_O is None else loss_O.sum().clamp(min=0)
    gram_SS, down_SO = at.gram_SS, -at.slope_SO
    g_S, lively_S = gram_SS.diagonal(), lively(gram_SS)
    total_SO = torch.zeros_like(down_SO)
    for number in range(1, passes + 1):
        for start in range(0, len(down_SO), PANEL):
            stop = min(start + PANEL, len(down_SO))
            panel_KO = down_SO[start:stop].clone()  # row k is final when channel k moves
            gram_KK = gram_SS[start:stop, start:stop]
            moves = []
            for k in range(stop - start):
                moves.append(move(start + k, panel_KO[k]))
                panel_KO[k + 1 :].addr_(gram_KK[k + 1 :, k], moves[k], alpha=-1)
            d_KO = torch.stack(moves)
            stopped = False
            if loss is not None:
                gain_K = (panel_KO.mul_(2).addcmul_(d_KO, g_S[start:stop, None], value=-1) * d_KO).sum(1)
                spent_K = gain_K.cumsum(0)
                short_K = (gain_K < tolerance * (loss - spent_K + gain_K)) & lively_S[start:stop]
                applied = int((short_K.cumsum(0) == 0).sum().item())
                stopped = applied < stop - start
                d_KO[applied:] = 0
                loss = loss - spent_K[-1]
            total_SO[start:stop] += d_KO
            if stopped:
                return total_SO
            # in the last pass, the channels that are done need no update
            after = stop if number == passes else 0
            down_SO[after:].addmm_(gram_SS[after:, start:stop], d_KO, alpha=-1)
    return total_SO

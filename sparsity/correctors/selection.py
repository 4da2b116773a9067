"""The input channels that a corrector may change. Candidates are the channels with any survivor, ranked by a salience.

`l2`            sqrt(g_i / N), with g_i the sum over N tokens of x_i^2
`james_stein`   |m + (1 - c)(mu_i - m)|, with mu_i the mean of x_i and m the mean of mu: the means are shrunk towards m by
                c = clip((I - 3) s2 / sum_i (mu_i - m)^2, 0, 1), with s2 = mean_i var(x_i) / N the variance of such a mean. With
                thousands of tokens c is near 0; the fact `shrinkage` reports it.

`weakest` and `top` take ceil(fraction * candidates) channels, at least one, from that end of the ranking. `moderate` takes as many
downwards from the knee of the curve of the stronger half; it starts at the top if there is no knee, and higher up if too few
channels are left below the knee. `all` takes every candidate, the weakest first. Among equal saliences the lower index comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..core import Site, Stats, Tap
from ..ranges import Share, checked
from ..statistics import Gram, GramState, Moments, MomentsState

Select = Literal["weakest", "top", "moderate", "all"]
Salience = Literal["l2", "james_stein"]

GRAM = Tap(Gram())
MOMENTS = Tap(Moments())


class Chosen(NamedTuple):
    """The chosen input channels, and the facts about the choice."""

    channel_S: Tensor  # indices of inputs, in the order in which a corrector visits them
    facts: dict[str, float]


def james_stein(state: MomentsState) -> tuple[Tensor, float]:
    """The absolute value of the shrunk mean of each input (I,), and the shrinkage c in [0, 1]."""
    mean_I = state.sum_I / state.tokens
    variance_I = (state.squares_I / state.tokens - mean_I.square()).clamp(min=0)
    apart_I = mean_I - mean_I.mean()
    noise = (len(mean_I) - 3) * variance_I.mean() / state.tokens
    shrinkage = (
        (noise / apart_I.square().sum()).nan_to_num(nan=0.0).clamp(0, 1)
    )  # 0 / 0: all means are equal, without noise
    return (mean_I.mean() + (1 - shrinkage) * apart_I).abs(), shrinkage.item()


def knee(curve: Sequence[float]) -> int:
    """The index of the knee of a convex, descending curve, by the Kneedle algorithm; 0 if there is none."""
    from kneed import KneeLocator  # imported here, because it takes a second to import and only this option needs it

    if len(curve) < 3 or curve[0] == curve[-1]:
        return 0
    found = KneeLocator(range(len(curve)), curve, curve="convex", direction="decreasing").knee
    return 0 if found is None else int(found)


def choose(salience_I: Tensor, candidate_I: Tensor, select: Select, fraction: float) -> Chosen:
    """The chosen channels in the order in which they are visited; facts: the numbers of candidates and of chosen channels.

    If no channel has a survivor, one is chosen all the same; nothing can change in it.
    """
    candidates = int(candidate_I.sum().item())
    # the decimal that the user wrote, not its binary neighbour: 0.07 of 100 is 7, where ceil(0.07 * 100) is 8
    part = Fraction(1) if select == "all" else Fraction(str(fraction))
    count = max(math.ceil(part * candidates), 1)
    descending = select in ("top", "moderate")
    last = -math.inf if descending else math.inf  # puts the other channels at the end
    order_I = salience_I.masked_fill(~candidate_I, last).argsort(descending=descending, stable=True)
    start = 0
    if select == "moderate":
        half_S = order_I[: math.ceil(candidates / 2)]
        start = max(min(knee(salience_I[half_S].tolist()), candidates - count), 0)
    channel_S = order_I[start : start + count]
    return Chosen(channel_S, {"candidates": float(candidates), "selected": float(len(channel_S))})


@dataclass(frozen=True)
@checked
class Selection:
    """The choice of the input channels that a corrector may change."""

    select: Select
    fraction: Share  # of the candidates; `all` does not read it
    salience: Salience

    def needs(self) -> tuple[Tap[Any], ...]:
        return (GRAM, MOMENTS) if self.salience == "james_stein" else (GRAM,)

    def choose(self, stats: Stats, keep_OI: Tensor) -> Chosen:
        facts: dict[str, float] = {}
        if self.salience == "james_stein":
            salience_I, facts["shrinkage"] = stats.derived(MOMENTS, james_stein)
        else:
            salience_I = stats.derived(GRAM, l2)
        candidate_I = keep_OI.view(torch.uint8).amax(0).bool()  # any(0), which takes torch ten times as long
        chosen = choose(salience_I, candidate_I, self.select, self.fraction)
        return Chosen(chosen.channel_S, chosen.facts | facts)


class Selective:
    """A corrector that may leave channels out. It lists the three options beside its own, since a yaml is one constructor call."""

    select: Select
    fraction: Share
    salience: Salience

    @property
    def selection(self) -> Selection:
        return Selection(self.select, self.fraction, self.salience)

    def needs(self, site: Site) -> tuple[Tap[Any], ...]:
        return self.selection.needs()


def l2(state: GramState) -> Tensor:
    """The root mean square of each input (I,)."""
    return (state.gram_II.diagonal() / state.tokens).sqrt()

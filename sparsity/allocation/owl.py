"""OWL (arXiv 2310.05175): layers with many outliers lose fewer weights.

With Wanda's scores A_oi = |W_oi| sqrt(g_i / N) of a group of layers, on the dense model's activations,

    D_g = share of the group's scores above `outlier` times their mean
    s_g = sparsity - d_g + constant,    d_g = D_g scaled linearly to [-lam, lam] over the groups

The constant is chosen such that the mean of the s_g, weighted by the groups' sizes, is the sparsity; every share is then within
2 lam of it. Shares are clipped to [0, 1], and the constant takes this into account. In the paper a group is a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from ..core import Pattern, Site, Stats, Tap
from ..linalg import exact
from ..methods.wanda import INPUT, Wanda
from ..models import Decoder
from ..models.blocks import Block
from ..ranges import Range, checked
from ..statistics import SquaredNormState
from ..stream import Stream, collect
from .balance import balanced
from .base import Allotted, Distance, Shapes, check_differs
from .groups import allotted, grouped, weights


@dataclass(frozen=True)
@checked
class Owl:
    """The allocation OWL: groups of layers with many outliers get a lower sparsity."""

    streams: ClassVar[bool] = True

    unit: Literal["block", "role", "layer"]  # it compares the scores of one block
    outlier: Annotated[float, Range(above=0, cap=10**9, such=5)]  # times the mean
    lam: Distance

    @property
    def measurement(self) -> str:
        return f"outliers of wanda, {self.outlier} times the mean of a {self.unit}"

    def check(self, pattern: Pattern) -> None:
        check_differs(self, pattern)

    def needs(self, site: Site) -> tuple[Tap[SquaredNormState]]:
        return (INPUT,)

    def measure(self, decoder: Decoder, stream: Stream, ids_BT: Tensor, shapes: Shapes) -> Mapping[str, Tensor]:
        """{"outliers": (G,)}: the fraction D_g of each group. The scores of one layer at a time are in memory."""
        outliers = []
        for block, stats in collect(stream, {site: self.needs(site) for site in shapes}):
            with block.on(stream.device):
                for group in grouped({site: shapes[site] for site in stats}, self.unit).values():
                    outliers.append(self._share(block, group, stats))
        return {"outliers": torch.tensor(outliers, dtype=torch.float64)}

    def _share(self, block: Block, group: list[Site], stats: Mapping[Site, Stats]) -> float:
        def scores() -> Iterator[Tensor]:
            yield from (Wanda("layer").score(block.layer(site), stats[site]) for site in group)

        size = sum(block.layer(site).weight_OI.numel() for site in group)
        mean = sum(score_OI.sum(dtype=exact(score_OI.device)).item() for score_OI in scores()) / size
        return sum(int((score_OI > self.outlier * mean).sum()) for score_OI in scores()) / size

    def allot(self, pattern: Pattern, shapes: Shapes, measured: Mapping[str, Tensor]) -> Allotted:
        groups, outliers_G = grouped(shapes, self.unit), measured["outliers"]
        spread = outliers_G.max() - outliers_G.min()
        scaled_G = (outliers_G - outliers_G.min()) / spread if spread > 0 else torch.zeros_like(outliers_G)
        size_G = torch.tensor([weights(shapes, group) for group in groups.values()], dtype=torch.float64)

        def share_at(constant: float) -> Tensor:
            return (pattern.sparsity - self.lam * (2 * scaled_G - 1) + constant).clamp(0, 1)

        share_G = balanced(share_at, size_G, pattern.sparsity, -2.0, 2.0)
        return allotted(pattern, shapes, self.unit, share_G, measured)

"""The stage `count`: the zeros in the model's weights, counted after all changes. The masks are not trusted: every weight that a
mask removed must still be zero after correctors, refinement and recovery have changed the surviving weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..linalg import nonzeros
from .pruning import unpacked
from .stage import Found, Plain

if TYPE_CHECKING:
    from .work import Work


@dataclass(frozen=True)
class Count(Plain):
    """The stage `count`."""

    name = "count"
    shared = False

    def do(self, work: Work, known: None) -> Found:
        """Count weights and zeros. Raises `RuntimeError` with the layer's name if a removed weight is not zero."""
        weights = zeros = 0
        for layer in work.decoder.layers(work.plan.sites):
            keep_OI = unpacked(work.keeps[layer.site], layer.weight_OI)
            if grown := nonzeros(layer.weight_OI.masked_fill(keep_OI, 0)):
                raise RuntimeError(f"{layer.site.name}: {grown} weights that its mask removed are not zero")
            weights += layer.weight_OI.numel()
            zeros += layer.weight_OI.numel() - nonzeros(layer.weight_OI)
        asked = sum(row["sparsity_asked"] * row["rows"] * row["columns"] for row in work.rows) / weights
        counted = {
            "asked": asked,
            "found": zeros / weights,
            "weights": weights,
            "zeros": zeros,
            "layers": len(work.rows),
        }
        return Found({"sparsity": counted})

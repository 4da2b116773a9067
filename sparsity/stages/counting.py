"""The stage `count`: the zeros of the model itself, once everything was done to its weights. What the masks promised is not
taken on trust: every weight that a mask removed must be zero, whatever correctors, refinements and recoveries made of the
survivors.
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
    name = "count"
    shared = False

    def do(self, work: Work, known: None) -> Found:
        """Raises `RuntimeError`, naming the layer, if a removed weight is not zero."""
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

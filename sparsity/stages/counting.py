"""The stage `count`: the zeros of the model itself, once everything was done to its weights. What the masks promised is not
taken on trust: no layer may have more weights than its mask has survivors, whatever a recovery made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..linalg import nonzeros
from .stage import Found, Plain

if TYPE_CHECKING:
    from .work import Work


@dataclass(frozen=True)
class Count(Plain):
    """The stage `count`."""

    name = "count"
    shared = False

    def do(self, work: Work, known: None) -> Found:
        """Count every layer. Raises `RuntimeError` with the layer's name if more weights than survivors are not zero."""
        weights = zeros = 0
        for layer, row in zip(work.decoder.layers(work.plan.sites), work.rows, strict=True):
            size, found = layer.weight_OI.numel(), nonzeros(layer.weight_OI)
            if found > (survivors := size - round(row["sparsity_found"] * size)):
                raise RuntimeError(
                    f"{layer.site.name}: {found} weights are not zero, and its mask has {survivors} survivors"
                )
            weights += size
            zeros += size - found
        asked = sum(row["sparsity_asked"] * row["rows"] * row["columns"] for row in work.rows) / weights
        counted = {
            "asked": asked,
            "found": zeros / weights,
            "weights": weights,
            "zeros": zeros,
            "layers": len(work.rows),
        }
        return Found({"sparsity": counted})

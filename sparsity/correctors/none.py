"""No correction: the survivors keep the values from the method. It is the baseline of all correctors."""

from __future__ import annotations

from dataclasses import dataclass

from ..core import Corrected, Layer, Pruned, Site, Stats


@dataclass(frozen=True)
class NoCorrection:
    """The corrector that changes nothing."""

    def needs(self, site: Site) -> tuple[()]:
        return ()

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Corrected:
        return Corrected(pruned.weight_OI)

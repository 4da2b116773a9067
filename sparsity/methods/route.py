"""Routing: each layer is pruned by the method that is set for its last name, else for its role, else for `default`.

`hybrid` is routes {attention: wanda, mlp: neuronrank_tfidf}. A layer needs only the statistics of its own method.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import Layer, Method, Pattern, Pruned, Site, Stats, Tap, UserError, solving
from ..ranges import checked


@dataclass(frozen=True)
@checked
class Route:
    """The method that applies another method to each layer, by the layer's name or role."""

    routes: Mapping[str, Method]  # a layer's last name, a role, or "default" -> method

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.routes.items(), key=lambda item: item[0])))

    def key(self, site: Site) -> str:
        """The key of the layer's route: its last name, its role or "default". Raises `UserError` if there is none."""
        for key in (site.leaf, site.role, "default"):
            if key in self.routes:
                return key
        raise UserError(
            f"{site.name} ({site.role}) has no route: got routes for {', '.join(self.routes)}. Add one for {site.leaf}, "
            f"{site.role} or default; method=dense in a route leaves a layer alone"
        )

    def at(self, site: Site) -> Method:
        """The method of a layer."""
        return self.routes[self.key(site)]

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        taken: dict[str, list[Site]] = {}
        for site in sites:
            taken.setdefault(self.key(site), []).append(site)
        roles = ("attention", "mlp")
        known = {*roles, "default", *(site.leaf for site in sites)}
        for key in self.routes.keys() - known:
            leaves = ", ".join(dict.fromkeys(site.leaf for site in sites))
            raise UserError(
                f"the route {key!r} leads nowhere: expected a role ({', '.join(roles)}), the last name of a layer to be pruned "
                f"({leaves}), or default"
            )
        for key, served in taken.items():
            self.routes[key].check(served, pattern)

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """The products of the method that the layer is routed to."""
        return solving(self.at(site), site, outputs, inputs)

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        return self.at(site).needs(site)

    def asked(self, site: Site, pattern: Pattern) -> float:
        return self.at(site).asked(site, pattern)

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        return self.at(layer.site).prune(layer, pattern, stats)

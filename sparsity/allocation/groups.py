"""The groups of layers that get one share each, and the conversion of the shares into patterns and rows of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..core import Pattern, Site
from .base import Allotted, Shapes, Unit
from .exact import apportioned


def grouped(shapes: Shapes, unit: Unit) -> dict[str, list[Site]]:
    """The layers of each group by the group's name, in the order of the model."""
    groups: dict[str, list[Site]] = {}
    for site in shapes:
        names = {
            "block": f"block {site.block}",
            "role": f"block {site.block} {site.role}",
            "layer": site.name,
            "leaf": site.leaf,
        }
        groups.setdefault(names[unit], []).append(site)
    return groups


def weights(shapes: Shapes, group: Sequence[Site]) -> int:
    """The number of weights of a group of layers."""
    return sum(shapes[site][0] * shapes[site][1] for site in group)


def allotted(pattern: Pattern, shapes: Shapes, unit: Unit, share_G: Tensor, columns: Mapping[str, Tensor]) -> Allotted:
    """The patterns for the groups' shares (G,), rounded to whole weights. `columns`: other numbers (G,) for the table."""
    groups = grouped(shapes, unit)
    wanted = {site: share for group, share in zip(groups.values(), share_G.tolist(), strict=True) for site in group}
    shares = apportioned(shapes, wanted, pattern.sparsity)
    rows = []
    for number, (name, group) in enumerate(groups.items()):
        size = weights(shapes, group)
        share = sum(shares[site] * weights(shapes, [site]) for site in group) / size
        known = {column: value_G[number].item() for column, value_G in columns.items()}
        rows.append({"group": name, "layers": len(group), "weights": size, "share": float(share), **known})
    return Allotted({site: pattern.at(share) for site, share in shares.items()}, rows)

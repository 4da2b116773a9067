"""The rounding of wanted fractions to whole weights with an exact total.

N = floor(sparsity * all weights) weights are to be removed in all layers together. Layer l with O_l outputs and I_l inputs
removes r_l weights of each row, so that the count is the same whether a method compares scores within rows or within the layer:

    r_l = floor(s_l I_l). The rest is given to layers, one weight per row (O_l weights) at a time, the largest remainder
    s_l I_l - r_l first, until sum_l O_l r_l <= N < sum_l O_l r_l + O_m, with m the layer with fewest outputs that has room.
    The last weights, fewer than O_m, are asked of one layer in addition to its rows.

A method that compares scores within whole layers then removes exactly N weights. One that compares within rows removes
sum_l O_l r_l, which is less than N by fewer than O_m weights. No row loses all its weights: r_l <= I_l - 1. Only if that leaves
no room is the total below N.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

from ..core import Site
from .base import Shapes

# Fraction of a weight, larger than the rounding error of s I: the floors then never exceed the total, nor empty a row at s = 1.
SLACK = 1e-6


def apportioned(shapes: Shapes, wanted: Mapping[Site, float], sparsity: float) -> dict[Site, Fraction]:
    """The fraction of each layer: `wanted` rounded to whole weights per row, with the total of `sparsity`.

    `wanted`: fractions in [0, 1] whose mean, weighted by the layers' sizes, is `sparsity`.
    """
    size = sum(outputs * inputs for outputs, inputs in shapes.values())
    room = sum(outputs * (inputs - 1) for outputs, inputs in shapes.values())
    left = min(math.floor(Fraction(str(sparsity)) * size), room)
    each: dict[Site, int] = {}  # weights to remove per row
    for site, (outputs, inputs) in shapes.items():
        each[site] = max(math.floor(wanted[site] * inputs - SLACK), 0)
        left -= outputs * each[site]
    assert left >= 0, "the shares wanted are more than the total"
    order = sorted(shapes, key=lambda site: each[site] - wanted[site] * shapes[site][1])

    def open_to_more() -> Iterator[Site]:
        return (site for site in order if each[site] < shapes[site][1] - 1)

    while fitting := [site for site in open_to_more() if shapes[site][0] <= left]:
        for site in fitting:
            if shapes[site][0] <= left:
                each[site] += 1
                left -= shapes[site][0]
    shares = {site: Fraction(each[site], inputs) for site, (_, inputs) in shapes.items()}
    if left:
        site = next(open_to_more())
        shares[site] += Fraction(left, shapes[site][0] * shapes[site][1])
    return shares

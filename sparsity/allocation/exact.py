"""From the fractions that a formula wants to whole weights with an exact total.

N = floor(sparsity * all weights) of the layers together are to go. Layer l of O_l outputs and I_l inputs gives up r_l weights of
each row, so that the count is the same wherever a method compares scores, within rows or in the layer:

    r_l = floor(s_l I_l), and what is then missing in whole layers' rows (O_l weights), the largest remainder s_l I_l - r_l first;
    sum_l O_l r_l <= N < sum_l O_l r_l + O_m,    m the narrowest layer that has room; the last few weights, fewer than O_m, one
    layer is asked for beyond its rows.

A method that compares within whole layers then removes exactly N. One that compares within rows removes sum_l O_l r_l: less than N
by fewer than O_m weights. No row is ever emptied, r_l <= I_l - 1; only where that leaves no room is the total below N.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

from ..core import Site
from .base import Shapes

# Weights of a row: more than the rounding of s I. So the floors never exceed the total, nor empty a row at s = 1
SLACK = 1e-6


def apportioned(shapes: Shapes, wanted: Mapping[Site, float], sparsity: float) -> dict[Site, Fraction]:
    """The fraction of each layer, as near to `wanted`, in [0, 1] and on weighted mean `sparsity`, as whole weights of a row are."""
    size = sum(outputs * inputs for outputs, inputs in shapes.values())
    room = sum(outputs * (inputs - 1) for outputs, inputs in shapes.values())
    left = min(math.floor(Fraction(str(sparsity)) * size), room)
    each: dict[Site, int] = {}  # weights of a row
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

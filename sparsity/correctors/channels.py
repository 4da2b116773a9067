"""Shared parts of `greedy` and `hessian`: the layer restricted to the selected channels S, and the application of a step D to them.

With R = W - W0 and P = R G, only P_S = R G[:, S] is computed: O(O I |S|). Each row takes its step as far as an exact line search
allows, t = clip(-<D, P> / <D, D G>, 0, 1), so its loss never rises. D is zero outside S, so P_S and G_SS suffice for both products.
All matrices are transposed, so that the O values of one channel are one contiguous row.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ..core import Corrected, Layer, Pruned
from ..linalg import line_search, never_worse, wide
from ..ranges import Range

Change = Annotated[float, Range(least=0, cap=10**9, such=0.05)]  # the most, as a fraction of a dense weight


class Channels(NamedTuple):
    """The selected channels of a layer, in the dtype and on the device of the computation."""

    gram_SS: Tensor
    slope_SO: Tensor  # P_S', half the gradient of the loss with respect to these weights
    dense_SO: Tensor
    keep_SO: Tensor


def columns(matrix_OI: Tensor, channel_S: Tensor) -> Tensor:
    """The selected columns of a matrix as contiguous rows (S, O)."""
    return matrix_OI.index_select(1, channel_S).T.contiguous()


def seen(layer: Layer, pruned: Pruned, channel_S: Tensor, gram_SI: Tensor, slope_SO: Tensor) -> Channels:
    """The layer as the selected channels see it, in the dtype and on the device of their rows of the Gram matrix."""
    gram_SS, dense_SO = gram_SI.index_select(1, channel_S), columns(layer.weight_OI, channel_S).to(gram_SI)
    return Channels(gram_SS, slope_SO, dense_SO, columns(pruned.keep_OI, channel_S).to(gram_SI.device))


def share(part_SO: Tensor, whole_SO: Tensor) -> float:
    """The ratio of two sums, of flags or of counts; 0 if the whole is 0."""
    return part_SO.sum().item() / max(whole_SO.sum().item(), 1)


def take(layer: Layer, pruned: Pruned, gram_II: Tensor, channel_S: Tensor, at: Channels, step_SO: Tensor) -> Corrected:
    """The weights of `pruned` after the step, in the layer's dtype. Only survivors change.

    Facts: `applied`, the share of the selected channels' survivors that changed; `applied_channels`, the share of the channels with
    any change; `line_search`, the mean t.
    """
    step_SO = step_SO.masked_fill(~at.keep_SO, 0)
    curvature_O = (at.gram_SS @ step_SO).mul_(step_SO).sum(0)
    t_O = line_search((step_SO * at.slope_SO).sum(0), curvature_O)
    step_SO = step_SO.mul_(t_O).to(pruned.weight_OI.device)  # back from the CPU, if the device has no float64
    given_SO = columns(pruned.weight_OI, channel_S)
    moved_SO = torch.where(step_SO == 0, given_SO, (given_SO + step_SO).to(given_SO.dtype))
    corrected_OI = pruned.weight_OI.index_copy(1, channel_S, moved_SO.T)
    if given_SO.dtype != wide(given_SO.dtype):
        corrected_OI = never_worse(gram_II, layer.weight_OI, pruned.weight_OI, corrected_OI)
        moved_SO = columns(corrected_OI, channel_S)
    changed_SO = moved_SO != given_SO
    facts = {
        "applied": share(changed_SO, at.keep_SO),
        "applied_channels": changed_SO.any(1).sum().item() / len(changed_SO),
        "line_search": t_O.mean().item(),
    }
    return Corrected(corrected_OI, facts)

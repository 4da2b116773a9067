"""Shared parts of the NeuronRank methods: where a neuron's activations are observed, and how a factor per neuron scales weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ..core import Neurons, Pattern, Scope, Side, Site, Statistic, Tap, UserError
from ..linalg import wide

log = logging.getLogger(__name__)
S = TypeVar("S")

# The activations of an MLP's neurons: the inputs of the down projection (any architecture), or the activation function's values.
Activation = Literal["hidden", "gate"]


def neurons_of(site: Site) -> Neurons:
    """The neurons of a site. Raises `UserError` if they are not known."""
    if site.neurons is None:
        raise UserError(
            f"NeuronRank ranks neurons, and those of {site.name} are not known: expected a projection of an MLP or of attention. "
            f"Leave the layer out (scope.skip=[{site.leaf}]) or route it elsewhere (+method@method.routes.{site.leaf}=wanda "
            f"with method=hybrid)"
        )
    return site.neurons


def neuron_tap(statistic: Statistic[S], site: Site, activation: Activation, *, after: bool) -> Tap[S]:
    """The tap of a statistic on the activations of the site's neurons.

    With activation `gate`, these are the gate's values before the activation function, or behind it if `after`. Attention has no
    gate: the activations are the outputs of the query, key and value projections and the inputs of the output projection.
    """
    neurons = neurons_of(site)
    module, side = (
        _gate(site, neurons, after) if activation == "gate" and site.role == "mlp" else (neurons.module, neurons.side)
    )
    return Tap(statistic, module, side)


def _gate(site: Site, neurons: Neurons, after: bool) -> tuple[str, Side]:
    module = neurons.activation if after else neurons.gate
    if module is None:
        what = "activation function" if after else "gate projection"
        raise UserError(
            f"{site.name}: no {what} was found in its MLP, which activation=gate reads. Use activation=hidden"
        )
    return module, "output"


def spread(factor_J: Tensor, site: Site, weight_OI: Tensor) -> Tensor:
    """A factor per neuron (J,), reshaped to (O, 1) or (1, I) to multiply the layer's scores, in float32 at least."""
    neurons = neurons_of(site)
    factor_J = factor_J[: neurons.count].to(wide(weight_OI.dtype))  # a fused gate_up puts out more than the gate
    if neurons.axis == "column":
        return factor_J[None]
    return factor_J.repeat(weight_OI.shape[0] // neurons.count)[:, None]


def check(sites: Sequence[Site], pattern: Pattern, scope: Scope) -> None:
    """Log the layers where a factor per neuron has no effect: scores are compared within a row, and a row is one neuron."""
    rows = dict.fromkeys(site.leaf for site in sites if neurons_of(site).axis == "row")
    if rows and (pattern.group or scope == "row"):
        why = f"{pattern} compares within groups of inputs" if pattern.group else "scope=row compares within rows"
        log.info(
            "NeuronRank's factor is constant along the rows of %s, and %s: it has no effect there",
            ", ".join(rows),
            why,
        )


def facts(tf_J: Tensor, idf_J: Tensor) -> Mapping[str, float]:
    """The range of IDF, and its Spearman rank correlation with TF, which is 0 if one of them is constant."""
    return {
        "idf_min": float(idf_J.min()),
        "idf_median": float(idf_J.median()),
        "idf_max": float(idf_J.max()),
        "idf_tf_spearman": float(spearman(idf_J, tf_J)),
    }


def spearman(a_N: Tensor, b_N: Tensor) -> Tensor:
    """Spearman's rank correlation, a scalar in [-1, 1]; equal values share their mean rank; 0 if one input is constant.

    scipy's spearmanr differs in the last bits, runs on the CPU and gives NaN for a constant.
    """
    centred = [rank_N - rank_N.mean() for rank_N in (_rank(a_N), _rank(b_N))]
    scale = centred[0].norm() * centred[1].norm()
    return torch.where(scale > 0, centred[0] @ centred[1] / scale, 0.0)


def _rank(x_N: Tensor) -> Tensor:
    sorted_N = x_N.sort().values
    below_N, up_to_N = torch.searchsorted(sorted_N, x_N), torch.searchsorted(sorted_N, x_N, right=True)
    return (below_N + up_to_N).double() / 2

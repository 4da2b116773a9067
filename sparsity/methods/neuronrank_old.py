"""NeuronRank in its first form, with TF-IDF over tokens. j is the neuron of weight (o, i), w_j its row (gate, up) or column (down).

    TF_j  = mean over tokens t of |a_tj|
    IDF_j = ln((T + 1) / (#{t : |a_tj| > threshold} + 1)) + 1
    score = |W_oi| * ||w_j||_2^weight_exp * TF_j^tf_exp * IDF_j^idf_exp

SiLU and similar functions are almost never exactly 0. With the original threshold of 1e-6 every neuron is therefore active on every
token and every IDF is 1; a larger threshold is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core import Criterion, Layer, Pattern, Scope, Site, Stats, Tap
from ..linalg import wide
from ..ranges import Exponent, NotNegative, checked
from ..statistics import Activity, ActivityState
from .neurons import Activation, check, facts, neuron_tap, neurons_of, spread


def rank(state: ActivityState) -> tuple[Tensor, Tensor]:
    """TF and IDF of each neuron, float64 (J,) each."""
    tf_J = state.total_J / state.tokens
    return tf_J, ((state.tokens + 1) / (state.active_J + 1)).log() + 1


@dataclass(frozen=True)
@checked
class NeuronRankOld(Criterion):
    """The criterion NeuronRank in its first form, with TF-IDF over tokens."""

    scope: Scope
    weight_exp: Exponent  # of the norm of the neuron's weights
    tf_exp: Exponent
    idf_exp: Exponent
    threshold: NotNegative  # an activation above it, in absolute value, counts as active
    activation: Activation  # `gate`: behind the activation function

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        check(sites, pattern, self.scope)

    def tap(self, site: Site) -> Tap[ActivityState]:
        return neuron_tap(Activity(self.threshold), site, self.activation, after=True)

    def needs(self, site: Site) -> tuple[Tap[ActivityState]]:
        return (self.tap(site),)

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        tf_J, idf_J = stats.derived(self.tap(layer.site), rank)
        size_OI = layer.weight_OI.abs().to(wide(layer.weight_OI.dtype))
        norm = size_OI.norm(dim=int(neurons_of(layer.site).axis == "row"), keepdim=True)
        factor_J = tf_J**self.tf_exp * idf_J**self.idf_exp
        score_OI: Tensor = size_OI * norm.pow(self.weight_exp) * spread(factor_J, layer.site, size_OI)
        return score_OI

    def facts(self, layer: Layer, stats: Stats) -> Mapping[str, float]:
        return facts(*stats.derived(self.tap(layer.site), rank))

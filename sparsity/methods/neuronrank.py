"""NeuronRank with TF-IDF: score_oi = (base_oi^power)^weight_exp * factor_j, with j the neuron of weight (o, i).

`base` is any criterion. With |W_oi| it is NeuronRank as proposed. The square of Wanda's score is the loss of the layer when the
weight is removed; the factor then weights it by the role of its neuron in the rest of the block.
factor_j = TF_j^tf_exp * IDF_j^idf_exp * spikiness_j^spike_exp is defined in methods/tfidf.py.
j is the row of gate and up (and of q, k and v), and the column of down (and of o).

A factor that is constant along a row has no effect if scores are compared within rows, so the scope must be `layer`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import Criterion, Layer, Pattern, Scope, Site, Stats, Tap, distinct
from ..ranges import Exponent, checked
from ..statistics import GroupedActivity, GroupedActivityState
from .neurons import check, facts, neuron_tap, neurons_of, spread
from .tfidf import Ranked, TfIdf


@dataclass(frozen=True)
@checked
class NeuronRank(Criterion):
    """The criterion NeuronRank: a base criterion times a TF-IDF factor of the weight's neuron."""

    base: Criterion
    power: Exponent  # of the base's score
    tfidf: TfIdf

    @property
    def scope(self) -> Scope:  # type: ignore[override]  # one scope, the base's
        return self.base.scope

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        self.base.check(sites, pattern)
        check(sites, pattern, self.scope)

    def tap(self, site: Site) -> Tap[GroupedActivityState]:
        return neuron_tap(GroupedActivity(self.tfidf.grouping), site, self.tfidf.activation, after=False)

    def needs(self, site: Site) -> Collection[Tap[Any]]:
        return distinct([*self.base.needs(site), self.tap(site)])

    def rank(self, site: Site, stats: Stats) -> Ranked:
        return stats.derived(self.tap(site), self.tfidf.rank, neurons_of(site).count)

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        factor_J = self.rank(layer.site, stats).factor_J
        score_OI = self.base.score(layer, stats) ** (self.power * self.tfidf.weight_exp)
        return score_OI * spread(factor_J, layer.site, layer.weight_OI)

    def facts(self, layer: Layer, stats: Stats) -> Mapping[str, float]:
        ranked = self.rank(layer.site, stats)
        return facts(ranked.tf_J, ranked.idf_J)

"""TF-IDF over neurons: how active a neuron is, and how specific to a part of the documents or topics.

M_rj = mean of |a_j| over the tokens of row r. A row is a calibration sequence, or one of K topics (groupings/topics.py).

    TF_j        = mean over rows of M_rj
    R_rj        = M_rj / TF_j           (`normalise`; else R = M).  1 throughout where TF_j = 0
    tau         = the q-quantile of all entries of R
    DF_j        = #{rows r : R_rj >= tau}
    IDF_j       = ln((rows + 1) / (DF_j + 1)) + 1
    spikiness_j = max_r M_rj / TF_j,    1 where TF_j = 0
    factor_j    = TF_j^tf_exp * IDF_j^idf_exp * spikiness_j^spike_exp

R does not change when a neuron's activations are scaled, so with it IDF adds information to TF. A threshold on M itself counts the
rows in which a neuron is *large*; IDF then falls where TF rises, and the two cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from ..core import Grouping
from ..groupings import Documents, Topics, Window
from ..ranges import Count, Exponent, Range, Seed, checked
from ..statistics import GroupedActivityState
from .neurons import Activation


class Ranked(NamedTuple):
    """TF, IDF and the factor of each neuron (J,)."""

    tf_J: Tensor
    idf_J: Tensor
    factor_J: Tensor


@dataclass(frozen=True)
@checked
class TfIdf:
    """The options of TF-IDF over neurons, and the factor of each neuron."""

    weight_exp: Exponent  # of the weight's own score
    tf_exp: Exponent
    idf_exp: Exponent
    spike_exp: Exponent
    quantile: Annotated[float, Range(least=0, most=1, such=0.6)]  # q
    normalise: bool
    num_topics: Count | None  # K; None: a row is a document
    window: Window  # tokens that share a topic
    activation: Activation  # `gate`: the gate projection's output, before the activation function
    seed: Seed  # of the clustering

    def __post_init__(self) -> None:
        _ = self.grouping  # of topics the seed has a range of its own

    @property
    def grouping(self) -> Grouping:
        return Documents() if self.num_topics is None else Topics(self.num_topics, self.window, self.seed)

    def rank(self, state: GroupedActivityState, count: int | None = None) -> Ranked:
        """TF, IDF and factor of each neuron (J,). `count`: use only the first `count` columns, as for a fused gate_up."""
        mean_RJ = state.mean_RJ[:, :count]
        tf_J = mean_RJ.mean(0)
        relative_RJ = torch.where(tf_J > 0, mean_RJ / tf_J, 1.0)
        seen_RJ = relative_RJ if self.normalise else mean_RJ
        # kthvalue: torch.quantile refuses more than 16M entries
        tau = seen_RJ.flatten().kthvalue(max(1, math.ceil(Fraction(str(self.quantile)) * seen_RJ.numel()))).values
        df_J = (seen_RJ >= tau).sum(0, dtype=tf_J.dtype)
        idf_J = ((len(mean_RJ) + 1) / (df_J + 1)).log() + 1
        spikiness_J = relative_RJ.max(0).values
        return Ranked(tf_J, idf_J, tf_J**self.tf_exp * idf_J**self.idf_exp * spikiness_J**self.spike_exp)

"""TF-IDF over neurons against its definition, one entry at a time, and in its limits."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.testing import assert_close

from sparsity.core import UserError
from sparsity.methods import TfIdf
from sparsity.methods.neurons import facts, spearman
from sparsity.statistics import GroupedActivityState

DOC = TfIdf(1.0, 1.0, 1.5, 0.0, 0.6, True, None, 32, "hidden", 0)
PLAIN = dataclasses.replace(DOC, tf_exp=0.0, idf_exp=0.0, spike_exp=0.0)


def state(mean_RJ: Tensor, seed: int = 0) -> GroupedActivityState:
    """Rows of different lengths with these means."""
    generator = torch.Generator().manual_seed(seed)
    tokens_R = torch.randint(1, 9, (len(mean_RJ),), generator=generator)
    return GroupedActivityState(mean_RJ.double() * tokens_R[:, None], tokens_R)


def drawn(rows: int = 7, neurons: int = 10, seed: int = 0) -> Tensor:
    """Means with very different scales, and a neuron that is never active."""
    generator = torch.Generator().manual_seed(seed)
    scale_J = 10 ** torch.randn(neurons, generator=generator, dtype=torch.float64)
    mean_RJ = torch.rand(rows, neurons, generator=generator, dtype=torch.float64) ** 3 * scale_J
    mean_RJ[:, 4] = 0
    return mean_RJ


def naive(M: list[list[float]], spec: TfIdf) -> list[tuple[float, float, float]]:
    """TF, IDF and factor of every neuron, as METHODS.md states them."""
    rows, neurons = len(M), len(M[0])
    TF = [sum(M[r][j] for r in range(rows)) / rows for j in range(neurons)]
    R = [[M[r][j] / TF[j] if TF[j] > 0 else 1.0 for j in range(neurons)] for r in range(rows)]
    seen = R if spec.normalise else M
    entries = sorted(entry for row in seen for entry in row)
    # the q-quantile: the least entry with at least a fraction q of the entries not above it
    q = Fraction(str(spec.quantile))
    tau = next(e for k, e in enumerate(entries, 1) if k >= q * len(entries))
    found = []
    for j in range(neurons):
        DF = sum(seen[r][j] >= tau for r in range(rows))
        IDF = math.log((rows + 1) / (DF + 1)) + 1
        spikiness = max(R[r][j] for r in range(rows))
        found.append((TF[j], IDF, TF[j] ** spec.tf_exp * IDF**spec.idf_exp * spikiness**spec.spike_exp))
    return found


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("rows", [1, 2, 7, 10])
def test_the_rank_is_the_definition(rows, quantile, normalise):
    spec = dataclasses.replace(DOC, quantile=quantile, normalise=normalise, tf_exp=0.7, spike_exp=0.3)
    mean_RJ = (drawn(rows) * 2**12).round() / 2**12  # exact sums: the entry that is tau is not a matter of rounding
    folded = state(mean_RJ)
    expected = naive(folded.mean_RJ.tolist(), spec)
    for ours_J, theirs in zip(spec.rank(folded), zip(*expected, strict=True), strict=True):
        assert_close(ours_J, torch.tensor(theirs, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_quantiles_rank_is_not_a_matter_of_rounding():
    """0.55 * 100 is 55.00000000000001 in binary: the 55th of 100 entries, not the 56th."""
    spec = dataclasses.replace(DOC, quantile=0.55, normalise=False)
    ranked = spec.rank(GroupedActivityState(torch.arange(1.0, 101)[None].double(), torch.ones(1)))
    idf_J = ranked.idf_J
    assert idf_J.eq(1).sum() == 46  # 55 .. 100
    assert_close(idf_J[53], torch.tensor(math.log(2) + 1, dtype=torch.float64))


@pytest.mark.parametrize(("quantile", "active"), [(0.0, 7), (1.0, 0)])
def test_at_the_ends_everything_is_active_or_the_largest_alone(quantile, active):
    spec = dataclasses.replace(DOC, quantile=quantile)
    mean_RJ = drawn()
    idf_J = spec.rank(state(mean_RJ)).idf_J
    top = (mean_RJ / mean_RJ.mean(0)).nan_to_num(1).max(0).values.argmax()
    for j, idf in enumerate(idf_J.tolist()):
        assert idf == pytest.approx(math.log(8 / (max(active, int(j == top)) + 1)) + 1)


def test_only_the_first_so_many_are_neurons():
    mean_RJ = drawn()
    for ours, alone in zip(DOC.rank(state(mean_RJ), 6), DOC.rank(state(mean_RJ[:, :6])), strict=True):
        assert torch.equal(ours, alone)


@pytest.mark.parametrize("scale", [1e-3, 0.25, 64.0])
def test_scaling_a_neuron_leaves_its_idf_unless_raw_means_are_compared(scale):
    mean_RJ = drawn()
    mean_RJ[:, 2] = mean_RJ.quantile(DOC.quantile) * torch.linspace(0.3, 3, 7)  # on both sides of the raw threshold
    scaled_RJ = mean_RJ.clone()
    scaled_RJ[:, 2] *= scale
    before, after = DOC.rank(state(mean_RJ)), DOC.rank(state(scaled_RJ))
    assert_close(after.idf_J, before.idf_J)
    assert_close(after.tf_J[2], scale * before.tf_J[2])
    raw = dataclasses.replace(DOC, normalise=False)
    before, after = raw.rank(state(mean_RJ)), raw.rank(state(scaled_RJ))
    assert (after.idf_J[2] - before.idf_J[2]).sign() == (-1 if scale > 1 else 1)  # larger is active in more rows


@pytest.mark.parametrize("quantile", [0.6, 0.8])
def test_what_is_active_in_few_documents_is_more_specific_than_what_is_in_all(quantile):
    """Neurons 0 to 4 are active in one document each, 5 to 9 equally in all, with the same mean."""
    mean_RJ = torch.full((5, 10), 1.0)
    mean_RJ[:, :5] = 5 * torch.eye(5)
    ranked = dataclasses.replace(DOC, quantile=quantile).rank(state(mean_RJ))
    assert ranked.tf_J.eq(1).all()
    assert ranked.idf_J[:5].min() > ranked.idf_J[5:].max()
    assert ranked.factor_J[:5].min() > ranked.factor_J[5:].max()


def test_a_neuron_that_is_never_active_has_a_finite_factor():
    spec = dataclasses.replace(DOC, tf_exp=0.0, idf_exp=0.0, spike_exp=2.0)
    assert spec.rank(state(drawn())).factor_J[4] == 1  # its spikiness
    for tf_exp in (0.0, 1.0):
        ranked = dataclasses.replace(DOC, tf_exp=tf_exp, spike_exp=1.0).rank(state(drawn()))
        assert all(part.isfinite().all() for part in ranked)
    assert ranked.factor_J[4] == 0 == ranked.tf_J[4]


@pytest.mark.parametrize("part", ["tf_exp", "idf_exp", "spike_exp"])
def test_an_exponent_of_0_switches_its_part_off(part):
    folded = state(drawn())
    tf_J, idf_J, factor_J = PLAIN.rank(folded)
    assert factor_J.eq(1).all()
    spikiness_J = (drawn() / tf_J).nan_to_num(1).max(0).values
    expected_J = {"tf_exp": tf_J, "idf_exp": idf_J, "spike_exp": spikiness_J}[part] ** 1.5
    assert_close(dataclasses.replace(PLAIN, **{part: 1.5}).rank(folded).factor_J, expected_J)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantile": 1.5}, r"quantile=1.5 is not valid: expected a number >= 0 and <= 1"),
        ({"quantile": -0.1}, r"quantile=-0.1 is not valid"),
        ({"num_topics": 0}, "num_topics=0 is not valid: expected a whole number >= 1, such as 8, or null"),
        ({"num_topics": 4, "window": 0}, "window=0 is not valid"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(DOC, **options)


# --- facts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [3, 10, 1000])  # few values: many ties
def test_spearman_is_that_of_scipy(values):
    generator = torch.Generator().manual_seed(values)
    a_N, b_N = torch.randint(values, (2, 50), generator=generator).double()
    for other_N in (b_N, a_N, -a_N, a_N + b_N):
        assert float(spearman(a_N, other_N)) == pytest.approx(spearmanr(a_N, other_N).statistic, abs=1e-12)


def test_a_constant_correlates_with_nothing():
    a_N = torch.arange(5.0)
    assert spearman(a_N, torch.ones(5)) == spearman(torch.ones(5), a_N) == spearman(torch.ones(5), torch.ones(5)) == 0


def test_facts_are_of_the_idf():
    tf_J, idf_J = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 1.2, 1.0])
    assert facts(tf_J, idf_J) == pytest.approx(
        {"idf_min": 1.0, "idf_median": 1.2, "idf_max": 1.5, "idf_tf_spearman": -1.0}
    )

"""Which channels are chosen, and in which order."""

from __future__ import annotations

import math

import pytest
import torch
from problems import SITE, fold, problem
from torch.testing import assert_close

from sparsity.core import Folded, Stats, UserError
from sparsity.correctors.selection import GRAM, MOMENTS, Selection, choose, james_stein, knee
from sparsity.statistics import Moments

SALIENCE = torch.tensor([5.0, 1.0, 3.0, 0.0, 3.0, 9.0, 2.0, 7.0])
EVERY = torch.ones(8, dtype=torch.bool)


def chosen(select, fraction, candidate_I=EVERY):
    return choose(SALIENCE, candidate_I, select, fraction).channel_S.tolist()


def test_each_end_in_order_and_the_lower_index_first_among_equals():
    assert chosen("weakest", 0.5) == [3, 1, 6, 2]
    assert chosen("weakest", 0.6) == [3, 1, 6, 2, 4]
    assert chosen("top", 0.5) == [5, 7, 0, 2]
    assert chosen("all", 0.01) == [3, 1, 6, 2, 4, 0, 7, 5]


@pytest.mark.parametrize("select", ["weakest", "top", "moderate", "all"])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 1.0])
def test_channels_without_survivors_are_never_chosen(select, fraction):
    candidate_I = torch.tensor(
        [True, False, True, False, True, False, True, True]
    )  # the weakest and the strongest are not
    found = choose(SALIENCE, candidate_I, select, fraction)
    expected = 5 if select == "all" else max(math.ceil(fraction * 5), 1)
    assert found.facts == {"candidates": 5.0, "selected": expected}
    assert len({*found.channel_S.tolist()}) == expected
    assert candidate_I[found.channel_S].all()


def test_where_nothing_survives_something_harmless_is_chosen():
    assert len(chosen("weakest", 0.5, ~EVERY)) == 1
    assert len(chosen("moderate", 0.5, ~EVERY)) == 1


@pytest.mark.parametrize(("fraction", "of", "count"), [(0.07, 100, 7), (0.29, 100, 29), (0.05, 576, 29), (1e-9, 50, 1)])
def test_the_count_is_that_of_the_decimal_that_was_written(fraction, of, count):
    assert len(choose(torch.rand(of), torch.ones(of, dtype=torch.bool), "top", fraction).channel_S) == count


# --- moderate ---------------------------------------------------------------------------------------------------------


def test_the_knee_of_a_bent_line_is_its_bend():
    bent = [100.0 - 10 * k for k in range(10)] + [10.0 - 0.1 * k for k in range(30)]
    assert knee(bent) in (9, 10)


@pytest.mark.parametrize("curve", [[], [3.0], [3.0, 2.0], [4.0] * 20, [20.0 - k for k in range(20)]])
def test_a_curve_without_a_bend_starts_at_the_top(curve):
    assert knee(curve) == 0


def test_moderate_goes_down_from_the_knee_of_the_first_half():
    half = [100.0 - k for k in range(10)] + [90.0 - 0.01 * k for k in range(30)]
    rest = [85.0 - 4.2 * k for k in range(20)] + [1e-3 / (k + 1) for k in range(20)]  # where the whole curve bends
    salience_I = torch.tensor([*half, *rest])
    shuffled_I = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    found = choose(salience_I[shuffled_I], torch.ones(80, dtype=torch.bool), "moderate", 0.1)
    start = knee(half)
    assert shuffled_I[found.channel_S].tolist() == [*range(start, start + 8)]
    # fewer are left below the knee than are asked for: as many, from further up
    found = choose(salience_I[shuffled_I], torch.ones(80, dtype=torch.bool), "moderate", 0.95)
    assert shuffled_I[found.channel_S].tolist() == [*range(4, 80)]


def test_moderate_is_top_where_there_is_no_knee():
    line_I, every_I = torch.arange(40.0), torch.ones(40, dtype=torch.bool)
    a, b = (choose(line_I, every_I, select, 0.2).channel_S for select in ("moderate", "top"))
    assert torch.equal(a, b)


# --- salience ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [3, 200])
def test_james_stein_is_its_formula(tokens):
    x_NI = problem(tokens=tokens).x_NI + torch.linspace(-1, 1, 16, dtype=torch.float64)
    found_I, shrinkage = james_stein(fold(Moments(), x_NI[None]))
    mu = [x_NI[:, i].mean().item() for i in range(16)]
    m = sum(mu) / 16
    s2 = sum(x_NI[:, i].var(correction=0).item() / tokens for i in range(16)) / 16
    c = min(max((16 - 3) * s2 / sum((each - m) ** 2 for each in mu), 0), 1)
    assert 0 < c < 1 or tokens == 3
    assert shrinkage == pytest.approx(c)
    assert_close(found_I, torch.tensor([abs(m + (1 - c) * (each - m)) for each in mu], dtype=torch.float64))


def test_james_stein_shrinks_equal_means_without_a_nan():
    found_I, shrinkage = james_stein(fold(Moments(), torch.ones(1, 5, 8)))
    assert (shrinkage, found_I.tolist()) == (0.0, [1.0] * 8)
    # two tokens that cancel: all means are 0, and noise says nothing else
    x_BTI = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0))
    found_I, shrinkage = james_stein(fold(Moments(), torch.cat([x_BTI, -x_BTI], dim=1)))
    assert (shrinkage, found_I.tolist()) == (1.0, [0.0] * 8)


def test_the_salience_is_the_one_asked_for():
    p = problem()
    x_NI = p.x_NI.clone()
    x_NI[:, 5] = 2 + 1e-3 * x_NI[:, 5]  # less energy than others, but a mean
    x_NI[:, :5] -= x_NI[:, :5].mean(0)
    x_NI[:, 6:] -= x_NI[:, 6:].mean(0)
    stats = Stats(SITE, {tap: Folded(fold(tap.statistic, x_NI[None])) for tap in (GRAM, MOMENTS)})
    keep_OI = torch.ones(6, 16, dtype=torch.bool)
    l2, james = (Selection("all", 1.0, salience).choose(stats, keep_OI) for salience in ("l2", "james_stein"))
    assert l2.channel_S.tolist() == x_NI.norm(dim=0).argsort().tolist()
    assert l2.channel_S[-1] != 5 == james.channel_S[-1]
    assert "shrinkage" not in l2.facts
    assert 0 <= james.facts["shrinkage"] <= 1
    assert Selection("all", 1.0, "l2").needs() == (GRAM,)
    assert Selection("all", 1.0, "james_stein").needs() == (GRAM, MOMENTS)


def test_moments_are_a_fold():
    p = problem(tokens=50)
    whole, parts = fold(Moments(), p.x_NI[None]), [fold(Moments(), x[None]) for x in p.x_NI.split(20)]
    merged = Moments().merge(Moments().merge(parts[0], parts[1]), parts[2])
    assert_close(whole.sum_I, merged.sum_I)
    assert_close(whole.squares_I, merged.squares_I)
    assert whole.tokens == merged.tokens == 50
    assert_close(whole.sum_I, p.x_NI.sum(0))
    assert_close(whole.squares_I, p.x_NI.square().sum(0))
    assert Moments().finite(whole)
    assert not Moments().finite(fold(Moments(), torch.full((1, 2, 3), torch.nan)))


@pytest.mark.parametrize(
    "options",
    [("best", 0.1, "l2"), ("top", 0.0, "l2"), ("top", 1.1, "l2"), ("top", math.nan, "l2"), ("top", 0.1, "l1")],
)
def test_what_is_out_of_range_is_refused(options):
    with pytest.raises(UserError, match="expected"):
        Selection(*options)

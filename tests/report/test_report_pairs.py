"""Which runs and methods the report calls better, and where it does not."""

from __future__ import annotations

import pytest
from reports import answered, diverged, finished, gathered, windows

from sparsity.measures import Measure
from sparsity.report import pairs, seeds
from sparsity.report.export import table


def test_a_clear_difference_names_a_winner_and_none_names_none(tmp_path):
    finished(tmp_path / "a", 50.0, nll=windows(0.5, draw=1))
    finished(tmp_path / "b", 70.0, nll=windows(0.8, draw=2), method="magnitude")
    finished(tmp_path / "c", 50.1, nll=windows(0.5, draw=3), corrector="greedy")
    [group] = gathered(tmp_path)
    found = {(group.labels[pair.a], group.labels[pair.b]): pair for pair in pairs.compare(group).found}
    clear = found["wanda · none", "magnitude · none"]
    assert clear.winner() == "a"
    assert clear.interval.low > 0
    assert clear.interval.estimate == pytest.approx(0.3, abs=0.02)  # nats per token, b - a
    even = found["wanda · none", "wanda · greedy"]
    assert even.winner() is None
    assert not even.interval.excludes_zero


def test_runs_of_two_seeds_are_no_family(tmp_path):
    for seed in (0, 1):
        finished(tmp_path / f"w{seed}", 50.0, seed=seed, nll=windows(0.5, draw=seed))
        finished(tmp_path / f"m{seed}", 60.0, seed=seed, method="magnitude", nll=windows(0.6, draw=9 + seed))
    [group] = gathered(tmp_path)
    families = [pair.family for pair in pairs.compare(group).found]
    assert sorted(families[:2]) == ["sparsity 50 %, seed 0", "sparsity 50 %, seed 1"]
    assert families[2:] == [pairs.DIFFERENT] * 4


def test_the_adjustment_is_over_the_pairs_of_one_sparsity(tmp_path):
    for sparsity in (0.5, 0.6):
        for i, method in enumerate(("wanda", "magnitude", "hybrid")):
            folder = tmp_path / f"{sparsity}-{method}"
            finished(folder, 50.0 + i, method=method, sparsity=sparsity, nll=windows(0.5 + 0.1 * i, draw=i))
    [group] = gathered(tmp_path)
    compared = pairs.compare(group)
    assert compared.compared == compared.possible == 15
    sizes = {pair.family: pair.size for pair in compared.found}
    assert sizes == {"sparsity 50 %": 3, "sparsity 60 %": 3, pairs.DIFFERENT: 9}
    assert all(pair.adjusted >= pair.interval.p for pair in compared.found)
    assert any(pair.adjusted > pair.interval.p for pair in compared.found)


def test_the_same_two_runs_have_the_same_interval_wherever_they_lie(tmp_path):
    for place in ("here", "there"):
        finished(tmp_path / place / "a", 50.0, nll=windows(0.5, draw=1))
        finished(tmp_path / place / "b", 51.0, nll=windows(0.51, draw=2), method="magnitude")
    first, second = (pairs.compare(*gathered(tmp_path / place)).found for place in ("here", "there"))
    assert first == second


def test_what_is_not_computed_is_counted_and_the_foremost_are(tmp_path, monkeypatch):
    for i in range(6):
        finished(
            tmp_path / str(i),
            50.0 + i,
            nll=windows(0.5, draw=i),
            config={"calibration": {"num_sequences": i, "seed": 0}},
        )
    monkeypatch.setattr(pairs, "BUDGET", pairs.REPEATS * 24 * 4)
    [group] = gathered(tmp_path)
    compared = pairs.compare(group)
    assert (compared.possible, compared.compared) == (15, 4)
    assert {(pair.a, pair.b) for pair in compared.found} == {(0, 1), (0, 2), (1, 2), (0, 3)}


def test_as_many_bootstrap_series_as_the_adjustment_needs():
    """The smallest p that R series know, 1 / (R + 1), times the family's size is at most 0.05."""
    assert all(size / (pairs.repeats(size) + 1) <= 0.05 for size in (1, 99, 101, 1000))


@pytest.mark.parametrize("windows_each", [24, 300, 5000])
def test_the_work_is_within_its_budget_and_uses_it(windows_each):
    one = pairs.affordable(["a"] * 10_000, windows_each)
    assert one * pairs.repeats(one) * windows_each <= pairs.BUDGET
    assert (one + 1) * pairs.repeats(one + 1) * windows_each > pairs.BUDGET
    assert pairs.affordable(["a", "b"] * 5_000, windows_each) >= one  # smaller families need fewer series
    assert pairs.affordable(["a"] * 3, windows_each) == 3


def test_a_run_without_windows_is_compared_with_none(tmp_path):
    finished(tmp_path / "a", nll=windows(0.5))
    (finished(tmp_path / "b", method="magnitude") / "windows.csv").unlink()
    finished(tmp_path / "c", method="hybrid", nll=windows(0.5)[:20])
    [group] = gathered(tmp_path)
    assert pairs.compare(group) == pairs.Pairs([], 0, 0)


def test_the_latest_run_of_a_seed_is_compared(tmp_path):
    for folder in "ab":
        finished(tmp_path / folder)
    finished(tmp_path / "c", method="magnitude", nll=windows(0.9))
    [group] = gathered(tmp_path)
    assert len(pairs.compare(group).found) == 1


def test_accuracies_on_the_same_documents(tmp_path):
    for name, method, right in (("a", "wanda", [1] * 40), ("b", "magnitude", [1, 0, 0, 0] * 10)):
        answered(finished(tmp_path / name, 50.0, method=method), right)
    [group] = gathered(tmp_path)
    [pair] = [pair for pair in pairs.compare(group).found if pair.what != "perplexity"]
    assert pair.what == "quiz acc"
    assert pair.interval.estimate == pytest.approx(-0.75)
    assert pair.winner() == "a"
    assert next(pairs.tasks(group.runs[1].tables["documents"]))[2:] == (40, 0.25)


def test_other_documents_are_not_compared(tmp_path):
    answered(finished(tmp_path / "a"), [1] * 40)
    answered(finished(tmp_path / "b", method="magnitude"), [0] * 41)
    [group] = gathered(tmp_path)
    assert [pair.what for pair in pairs.compare(group).found] == ["perplexity"]


def test_the_divergence_finds_what_the_perplexity_does_not(tmp_path):
    for name, method, draw, kl in (("a", "wanda", 1, 0.30), ("b", "magnitude", 2, 0.32)):
        folder = finished(tmp_path / name, 50.0 + draw, method=method, nll=windows(0.5, noise=0.1, draw=draw))
        diverged(folder, [kl + 0.01 * (i % 5) + 0.001 * (i * draw % 7) for i in range(24)])
    [group] = gathered(tmp_path)
    found = {pair.what: pair for pair in pairs.compare(group).found}
    assert found["perplexity"].winner() is None
    assert found["divergence"].interval.estimate == pytest.approx(0.02, abs=0.001)  # nats per token, b - a
    assert found["divergence"].winner() == "a"


def test_divergences_of_windows_of_two_lengths_are_not_compared(tmp_path):
    for i, (method, tokens) in enumerate((("wanda", 511), ("magnitude", 255), ("hybrid", 255))):
        diverged(finished(tmp_path / method, 50.0 + i, method=method), [0.3] * 24, tokens)
    [group] = gathered(tmp_path)
    compared = pairs.compare(group)
    [pair] = [pair for pair in compared.found if pair.what == "divergence"]
    assert (group.labels[pair.a], group.labels[pair.b]) == ("magnitude", "hybrid")
    assert compared.compared == compared.possible == 3  # by their perplexities


def test_methods_are_compared_over_common_seeds(tmp_path):
    for seed in range(4):
        finished(tmp_path / f"w{seed}", 70.0 + 0.1 * seed, seed=seed)
        finished(tmp_path / f"h{seed}", 60.0 + 0.1 * seed + 0.01 * seed**2, seed=seed, method="hybrid")
    finished(tmp_path / "m", 90.0, method="magnitude")
    [group] = gathered(tmp_path)
    hybrid, wanda, magnitude = seeds.summarise(group)
    assert (hybrid.mean, wanda.mean) == (pytest.approx(60.185), pytest.approx(70.15))
    assert wanda.interval.low < 70.15 < wanda.interval.high
    assert magnitude.interval is None
    [difference] = seeds.differences([hybrid, wanda, magnitude])
    assert (difference.a, difference.b, difference.winner, difference.interval.units) == (0, 1, "a", 4)


def test_two_seeds_are_too_few_for_an_interval_and_methods_of_two_sparsities_are_not_compared(tmp_path):
    for seed in range(2):
        finished(tmp_path / f"w{seed}", 70.0 + seed, seed=seed)
    for seed in range(3):
        finished(tmp_path / f"s{seed}", 90.0 + seed, seed=seed, sparsity=0.6)
        finished(tmp_path / f"t{seed}", 95.0 + seed, seed=seed, sparsity=0.7)
    [group] = gathered(tmp_path)
    summaries = seeds.summarise(group)
    assert [summary.interval is None for summary in summaries] == [True, False, False]
    assert seeds.differences(summaries) == []


def test_an_empty_table_is_a_heading():
    assert table([]).splitlines()[0] == "|  |"


def test_the_direction_is_that_of_the_measure(tmp_path):
    """The smaller value wins if a metric's larger values are worse. No value wins if the direction is not known."""
    for better, winner in (("larger", "a"), ("smaller", "b"), (None, None)):
        for name, method, right in (("a", "wanda", [1] * 40), ("b", "magnitude", [1, 0, 0, 0] * 10)):
            declared = [
                Measure("perplexity.pruned", 50.0, "", "smaller"),
                Measure("evaluation.lm_eval.pruned.quiz.acc", sum(right) / 40, "fraction", better),
            ]
            measures = [measure.to_json() for measure in declared]
            answered(finished(tmp_path / str(better) / name, 50.0, method=method, schema=2, measures=measures), right)
        [group] = gathered(tmp_path / str(better))
        [pair] = [pair for pair in pairs.compare(group).found if pair.what == "quiz acc"]
        assert pair.winner() == winner


def test_a_window_table_without_its_measure_names_no_winner(tmp_path):
    for name, method, worse in (("a", "wanda", 0.5), ("b", "magnitude", 0.9)):
        finished(tmp_path / name, perplexity=None, method=method, nll=windows(worse), schema=2, measures=[])
    [group] = gathered(tmp_path)
    [pair] = pairs.compare(group).found
    assert pair.interval.excludes_zero
    assert pair.winner() is None

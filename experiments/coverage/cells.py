"""Simulated comparisons with a known true value: coverage and length of the interval, and how often a winner is named."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import signal

from sparsity.comparison import Interval, over_seeds, paired_accuracy, paired_difference, verdict

Values = npt.NDArray[np.float64]
Distribution = Literal["normal", "skewed", "heavy"]

SPREAD = 0.07  # nats per token: the median over pairs of this repository's runs that differ by at most 0.3 nats
WARM_UP = 100  # steps before the first window, after which 0.7^100 of the start is left


def innovations(shape: tuple[int, int], distribution: Distribution, rng: np.random.Generator) -> Values:
    """Independent values with mean 0 and variance 1. "skewed": gamma with skewness 1; "heavy": Student's t with 5 degrees."""
    if distribution == "skewed":
        return (rng.standard_gamma(4, shape) - 4) / 2
    if distribution == "heavy":
        return rng.standard_t(5, shape) * math.sqrt(3 / 5)
    return rng.standard_normal(shape)


@dataclass(frozen=True)
class Series:
    """Differences of windows with variance SPREAD^2. Neighbours have correlation `rho`, windows k apart `rho * decay^(k - 1)`.

    decay = rho is a first-order autoregression. A slower decay is such a series plus white noise: a lasting topic, and a part
    that is independent in each window.
    """

    rho: float = 0.0
    decay: float | None = None  # in [rho, 1); None: rho
    distribution: Distribution = "normal"

    def draw(self, repeats: int, count: int, rng: np.random.Generator) -> Values:
        """Random series (repeats, count) with mean 0."""
        decay = self.rho if self.decay is None else self.decay
        share = self.rho / decay if decay else 1.0  # share of the variance that is autocorrelated
        steps = innovations((repeats, WARM_UP + count), self.distribution, rng) * math.sqrt(1 - decay**2)
        lasting = signal.lfilter([1.0], [1.0, -decay], steps, axis=1)[:, WARM_UP:]
        own = innovations((repeats, count), self.distribution, rng)
        drawn: Values = SPREAD * (math.sqrt(share) * lasting + math.sqrt(1 - share) * own)
        return drawn


@dataclass(frozen=True)
class Outcome:
    """Shares of the simulated comparisons, in [0, 1], and the mean length of the interval."""

    covers: float  # share in which the interval contains the true value
    length: float
    named: float  # share in which a winner is named
    wrongly: float  # share in which a winner is named that is not the better model


def outcome(intervals: list[Interval], truth: float, better: Literal["smaller", "larger"]) -> Outcome:
    """The outcome of simulated comparisons with the true value `truth`."""
    winner = None if truth == 0 else "b" if (truth < 0) == (better == "smaller") else "a"
    named = [name for interval in intervals if (name := verdict(interval, better))]
    return Outcome(
        covers=sum(interval.low <= truth <= interval.high for interval in intervals) / len(intervals),
        length=sum(interval.high - interval.low for interval in intervals) / len(intervals),
        named=len(named) / len(intervals),
        wrongly=sum(name != winner for name in named) / len(intervals),
    )


def windows(series: Series, count: int, effect: float, repeats: int, seed: int) -> tuple[Outcome, Outcome]:
    """The outcomes of `paired_difference`, and of Student's interval for independent windows. b is worse by `effect` nats."""
    rng = np.random.default_rng(seed)
    dense = np.full(count, 3.5)
    drawn = dense + effect + series.draw(repeats, count, rng)
    return (
        outcome([paired_difference(dense, b_N, rng) for b_N in drawn], effect, "smaller"),
        outcome([over_seeds(b_N - dense) for b_N in drawn], effect, "smaller"),
    )


def accuracies(count: int, gain: float, loss: float, repeats: int, seed: int) -> Outcome:
    """The outcome of `paired_accuracy`. b gains a document with probability `gain`, and loses one with probability `loss`."""
    kind = np.random.default_rng(seed).choice(3, (repeats, count), p=[gain, loss, 1 - gain - loss])
    a, b = np.array([0, 1, 1]), np.array([1, 0, 1])
    intervals = [paired_accuracy(a[kind_N], b[kind_N]) for kind_N in kind]
    return outcome(intervals, gain - loss, "larger")


def seeds(count: int, distribution: Distribution, repeats: int, seed: int) -> Outcome:
    """The outcome of `over_seeds`, for values with mean 0."""
    drawn = innovations((repeats, count), distribution, np.random.default_rng(seed))
    return outcome([over_seeds(values_S) for values_S in drawn], 0.0, "smaller")

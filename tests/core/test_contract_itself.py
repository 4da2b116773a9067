"""The contract can fail: components that break one promise each, and refusals that come late or for another reason."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from contract import (
    CASES,
    CHECKS,
    PAIR_CHECKS,
    SPARSITY,
    WIDTH,
    Parts,
    asked_is_found,
    components_are_frozen_values,
    counts_are_exact,
    nothing_else_is_touched,
    numbers_are_finite,
    refusal,
    removed_weights_are_zero,
    runs_repeat,
    several_prune_what_one_prunes,
    shapes_and_dtypes_are_kept,
    survivors_are_the_dense_ones,
    the_loss_never_rises,
    walk,
    what_was_declared_was_read,
)
from problems import GRAM, NORM
from torch import Tensor

from sparsity.core import Corrected, Criterion, Layer, Method, Pruned, Scope, Stats, UserError
from sparsity.correctors import NoCorrection
from sparsity.methods import Magnitude, Successor, Wanda
from sparsity.patterns import NofM, Unstructured


@dataclass(frozen=True)
class Broken(Criterion):
    """Magnitude, until a subclass breaks one promise."""

    scope: Scope = "row"

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        return layer.weight_OI.abs()


class KeepsOneMore(Broken):
    def prune(self, layer, pattern, stats):
        keep_OI = pattern.keep(layer.weight_OI.abs(), self.scope)
        keep_OI.view(-1)[(~keep_OI).flatten().nonzero()[0]] = True
        return Pruned(layer.weight_OI * keep_OI, keep_OI)


class ComparesElsewhere(Broken):
    """Says row, compares in the layer: as many weights go, but not as many of each row."""

    def prune(self, layer, pattern, stats):
        return Magnitude("layer").prune(layer, pattern, stats)


class IgnoresItsBlocks(ComparesElsewhere):
    scope, width = "layer", WIDTH


@dataclass(frozen=True)
class RevivesOne(Successor):
    base: Method

    def reads(self, site):
        return ()

    def exchange(self, layer, pattern, pruned, stats):
        keep_OI = pruned.keep_OI.clone()
        keep_OI.view(-1)[(~keep_OI).flatten().nonzero()[0]] = True
        return Pruned(layer.weight_OI * keep_OI, keep_OI)


class AsksForLess(Broken):
    def asked(self, site, pattern):
        return pattern.sparsity / 2


class LeavesRemovedWeights(Broken):
    def prune(self, layer, pattern, stats):
        return Pruned(layer.weight_OI, super().prune(layer, pattern, stats).keep_OI)


class ChangesSurvivors(Broken):
    def prune(self, layer, pattern, stats):
        pruned = super().prune(layer, pattern, stats)
        return Pruned(pruned.weight_OI * 1.01, pruned.keep_OI)


class WritesToTheDenseWeight(Broken):
    def score(self, layer, stats):
        return layer.weight_OI.mul_(1.01).abs()


class MasksWithNumbers(Broken):
    def prune(self, layer, pattern, stats):
        pruned = super().prune(layer, pattern, stats)
        return Pruned(pruned.weight_OI.double(), pruned.keep_OI)


class DeclaresWhatItDoesNotRead(Broken):
    def needs(self, site):
        return (NORM,)


class ReadsWhatItDidNotDeclare(DeclaresWhatItDoesNotRead):
    def score(self, layer, stats):
        return layer.weight_OI.abs() * stats[NORM].total_I * stats[GRAM].gram_II.diagonal()


class WritesToSharedStatistics(DeclaresWhatItDoesNotRead):
    def score(self, layer, stats):
        return layer.weight_OI.abs() * stats[NORM].total_I.mul_(2)


class ReportsNaN(Broken):
    def prune(self, layer, pattern, stats):
        return dataclasses.replace(super().prune(layer, pattern, stats), facts={"ratio": math.nan})


class Rolls(Broken):
    def score(self, layer, stats):
        return torch.rand_like(layer.weight_OI)


class ComparesAShare(Broken):
    """A method whose rows are not independent."""

    def needs(self, site):
        return (NORM,)

    def prune(self, layer, pattern, stats):
        height = len(layer.weight_OI)
        [keep_OI] = stats.by_rows(lambda part_PI: (pattern.keep(part_PI.abs(), "layer"),), height, layer.weight_OI)
        return Pruned(layer.weight_OI.masked_fill(~keep_OI, 0), keep_OI)


class Remembers(Broken):
    def score(self, layer, stats):
        self.__dict__["last"] = layer.site
        return super().score(layer, stats)


@dataclass(unsafe_hash=True)
class Counts:
    scope: Scope = "row"
    calls: int = 0

    def check(self, sites, pattern): ...

    def needs(self, site):
        return ()

    def asked(self, site, pattern):
        return pattern.sparsity

    def prune(self, layer, pattern, stats):
        self.calls += 1
        return Magnitude(self.scope).prune(layer, pattern, stats)


@dataclass(frozen=True)
class Loosely(Broken):
    """No two of them are equal."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class BrokenCorrector:
    def needs(self, site):
        return ()

    def correct(self, layer, pruned, stats):
        return Corrected(layer.weight_OI)  # the support grows


class DividesByZero(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return Corrected(torch.where(pruned.keep_OI, pruned.weight_OI / 0, pruned.weight_OI))


class Widens(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return Corrected(pruned.weight_OI.double())


class EditsKeep(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return Corrected(pruned.weight_OI.masked_fill_(pruned.keep_OI.logical_not_(), 0))


class ZeroesSurvivors(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return Corrected(torch.zeros_like(pruned.weight_OI))


class CorrectsNothingButChanges(NoCorrection):
    def correct(self, layer, pruned, stats):
        return Corrected(pruned.weight_OI * 1.01)


class ReadsNothing(BrokenCorrector):
    def needs(self, site):
        return (GRAM,)

    def correct(self, layer, pruned, stats):
        return Corrected(pruned.weight_OI)


class MakesWorse(BrokenCorrector):
    def needs(self, site):
        return (GRAM,)

    def correct(self, layer, pruned, stats):
        _ = stats[GRAM]
        return Corrected(pruned.weight_OI * 1.01)


GOOD = Wanda("row")
PLANTED: list[tuple[Callable[..., None], Any, Any]] = [
    (counts_are_exact, KeepsOneMore(), NoCorrection()),
    (counts_are_exact, ComparesElsewhere(), NoCorrection()),
    (counts_are_exact, IgnoresItsBlocks(), NoCorrection()),
    (counts_are_exact, RevivesOne(Magnitude("row")), NoCorrection()),
    (asked_is_found, KeepsOneMore(), NoCorrection()),
    (asked_is_found, AsksForLess(), NoCorrection()),
    (asked_is_found, GOOD, BrokenCorrector()),
    (asked_is_found, GOOD, ZeroesSurvivors()),
    (removed_weights_are_zero, LeavesRemovedWeights(), NoCorrection()),
    (removed_weights_are_zero, GOOD, BrokenCorrector()),
    (survivors_are_the_dense_ones, ChangesSurvivors(), NoCorrection()),
    (survivors_are_the_dense_ones, GOOD, CorrectsNothingButChanges()),
    (the_loss_never_rises, GOOD, MakesWorse()),
    (shapes_and_dtypes_are_kept, MasksWithNumbers(), NoCorrection()),
    (shapes_and_dtypes_are_kept, GOOD, Widens()),
    (nothing_else_is_touched, WritesToTheDenseWeight(), NoCorrection()),
    (nothing_else_is_touched, WritesToSharedStatistics(), NoCorrection()),
    (nothing_else_is_touched, GOOD, EditsKeep()),
    (numbers_are_finite, GOOD, DividesByZero()),
    (numbers_are_finite, ReportsNaN(), NoCorrection()),
    (what_was_declared_was_read, DeclaresWhatItDoesNotRead(), NoCorrection()),
    (what_was_declared_was_read, ReadsWhatItDidNotDeclare(), NoCorrection()),
    (what_was_declared_was_read, GOOD, ReadsNothing()),
    (components_are_frozen_values, Counts(), NoCorrection()),
    (components_are_frozen_values, Remembers(), NoCorrection()),
    (components_are_frozen_values, Loosely(), NoCorrection()),
    (runs_repeat, Rolls(), NoCorrection()),
    (several_prune_what_one_prunes, ComparesAShare(), NoCorrection()),
]


@pytest.mark.parametrize(
    "check,method,corrector", PLANTED, ids=lambda value: getattr(value, "__name__", type(value).__name__)
)
def test_a_planted_breach_is_caught(check, method, corrector):
    parts = Parts(method, Unstructured(SPARSITY), corrector)

    def grade() -> None:
        if check in PAIR_CHECKS:
            check(parts, copy.deepcopy(parts))
        else:
            check(walk(parts, CASES[1]))  # `dense`: no later block stumbles over what an earlier one became

    # a UserError: the engine itself compares what it finds with what was asked
    with pytest.raises((AssertionError, KeyError, UserError, pytest.fail.Exception)):
        grade()


def test_every_check_has_a_planted_breach():
    assert {check for check, _, _ in PLANTED} == {*CHECKS, *PAIR_CHECKS}


def test_a_refusal_that_comes_late_or_for_another_reason_is_caught():
    parts = Parts(GOOD, NofM(2, 5), NoCorrection())
    refusal(lambda: parts, "a multiple of 5")
    with pytest.raises(AssertionError):
        refusal(lambda: parts, "another reason")
    with pytest.raises(pytest.fail.Exception):
        refusal(lambda: Parts(GOOD, NofM(2, 4), NoCorrection()), "a multiple of 4")

"""One contract grades every newcomer: each conf/method x conf/pattern x conf/corrector, so that a new yaml brings its own tests.

A combination that cannot be is refused, in `REFUSED`, before any forward pass. Every other one keeps all the promises in `CHECKS`.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache

import pytest
from composing import OPTIONS, chosen
from contract import AXES, CASES, CHECKS, PAIR_CHECKS, assembled, options, refusal, walk

from sparsity.options.components import components
from sparsity.patterns import NofM

COMBINATIONS = list(itertools.product(*(OPTIONS[axis] for axis in AXES)))

# (method, pattern, corrector) -> why it cannot be, in words that the refusal's message holds
REFUSED: dict[tuple[str, str, str], str] = {}

shared = cache(assembled)  # they are values, so a walk can leave nothing behind for the next one


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_a_walk_keeps_the_contract(combination, case):
    if combination in REFUSED:
        refusal(lambda: assembled(combination), REFUSED[combination])
        return
    walked = walk(shared(combination), case)
    for check in CHECKS:
        check(walked)


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_components_are_values_and_runs_repeat(combination):
    if combination not in REFUSED:
        for check in PAIR_CHECKS:
            check(shared(combination), assembled(combination))


def test_what_is_refused_exists():
    assert {*REFUSED} <= {*COMBINATIONS}
    assert all(REFUSED.values())


@pytest.mark.parametrize("method", [name for name in OPTIONS["method"] if name != "dense"])
def test_a_pattern_that_does_not_fit_is_refused_before_any_forward_pass(method):
    parts = assembled((method, "2of4", "none"))
    refusal(lambda: dataclasses.replace(parts, pattern=NofM(2, 5)), r"q_proj has 32 inputs.*a multiple of 5")


def test_the_contract_walks_every_option():
    for axis in AXES:
        assert {combination[AXES.index(axis)] for combination in COMBINATIONS} == {*OPTIONS[axis]}
        for option in OPTIONS[axis]:
            written = components(chosen(axis, option))[axis]
            assert {*options(axis, option)} == {*written}
            assert options(axis, option)["_target_"] == written["_target_"]

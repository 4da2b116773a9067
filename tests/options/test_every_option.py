"""No value of any option ends in a traceback, an endless loop, or a run that found something else than was asked.

Each option of each yaml is set to values that nobody means, such as NaN, or a text in the place of a number. Most are refused where
the options are read, with the option's path; what passes there is run on a tiny model. `make test-options` runs all cases,
`make test` a part of them, another one every day.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import command
from option_values import (
    EVERY,
    PARTS,
    UNMOVED,
    UNREACHED,
    VALUES,
    Case,
    cases,
    command_for,
    configured,
    furnish,
    furnish_tasks,
    limited,
    paths,
    today,
)

from sparsity.core import UserError
from sparsity.options.components import Parts, build, check_targets, components
from sparsity.options.settings import read

SECONDS = 90  # for a case, on a busy machine


def admitted(group: str, option: str, case: Case) -> Parts:
    """The components, if the options are sound."""
    config = configured(group, option, case)
    settings, chosen = read(config), components(config)
    check_targets(chosen, settings.allow)
    return build(chosen)


def wrong(group: str, option: str, case: Case) -> str | None:
    """What is wrong with how the case ends; None: nothing."""
    try:
        with limited(SECONDS):
            try:
                parts = admitted(group, option, case)
            except UserError as error:
                return None if case.path in str(error) else f"the message does not name the option: {error}"
            if (group, option) in UNREACHED or case.path in UNMOVED:
                return None
            shutil.rmtree("run", ignore_errors=True)
            words = [word for word in command_for(group, option) if word.partition("=")[0] != case.path]
            ended = command(*words, case.word, "hydra.run.dir=run")
    except Exception:
        return traceback.format_exc(limit=-4)
    if ended.status:
        clean = ended.status == 1 and ended.err.startswith("error: ") and "Traceback" not in ended.err
        return None if clean and case.path in ended.err else f"status {ended.status}: {ended.err}"
    sparsity = json.loads(Path("run/result.json").read_text())["sparsity"]
    wanted = 0.0 if (group, option) == ("method", "dense") else parts.pattern.sparsity
    if not abs(sparsity["found"] - wanted) < 0.02:  # whole weights of a row of 64
        return f"asked {wanted}, found {sparsity['found']}"
    return None


def assert_all_end_well(group: str, option: str, some: Sequence[Case]) -> None:
    found = {case.word: why for case in some if (why := wrong(group, option, case))}
    assert not found, "\n".join(f"{group}={option} {word}: {why}" for word, why in found.items())


@pytest.fixture
def furnished(work: Path, no_network: None, no_traces: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACKIO_DIR", "outputs/trackio")
    furnish(work)
    return work


@pytest.mark.options
@pytest.mark.parametrize("group,option", EVERY)
def test_the_options(group: str, option: str, furnished: Path) -> None:
    if option == "lm_eval":
        furnish_tasks(furnished)
    assert_all_end_well(group, option, cases(group, option))


@pytest.mark.parametrize("group,option", EVERY)
def test_part_of_the_options(group: str, option: str, furnished: Path) -> None:
    first = sum(len(group + option) for group, option in EVERY[: EVERY.index((group, option))])  # not all at one end
    some = [case for number, case in enumerate(cases(group, option), first) if number % PARTS == today()]
    if option == "lm_eval" and some:
        furnish_tasks(furnished)
    assert_all_end_well(group, option, some)


def test_all_parts_are_all_cases_and_each_option_is_among_them() -> None:
    every = {case for group, option in EVERY for case in cases(group, option)}
    found = {case.path for case in every}
    assert {"sparsity", "cache.limit_gib", "scope.skip", "calibration.seqlen", "tfidf.quantile", "model.seed"} <= found
    assert {"method.base.scope", "method.routes.mlp.base.scope", "evaluation.cost.repeats", "recover.lr"} <= found
    assert {case.value for case in every} == {*VALUES}
    assert len(paths("method", "admm")) == 7

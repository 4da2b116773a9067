"""`plan=true` says in words what a run would do: the options that were chosen, and which of their values are not the files' own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import MEASURED, SMALL, UNMEASURED, command, folders, refuse, workplace
from composing import CONF
from hydra.core.hydra_config import HydraConfig

from sparsity.options.written import Written
from sparsity.runs.composition import composition
from sparsity.stream import BlockStream

WRITTEN = Written((CONF,))


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(BlockStream, "observe", refuse)
    monkeypatch.setenv("COLUMNS", "80")
    with workplace(tmp_path) as folder:
        yield folder


def plan(*words: str) -> str:
    """What a plan says before its table."""
    ended = command(*SMALL, *words, "plan=true")
    assert ended.status == 0, ended.err
    assert folders() == []
    above, table, _ = ended.out.partition("outputs x inputs")
    assert table
    return above


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    "chosen",
    [
        {"method": "sparsegpt", "corrector": "optimal", "pattern": "2of4", "allocation": "uniform"},
        {"method": "wanda", "allocation": "owl", "refine": "block", "recover": "distill", "corrector": "none"},
    ],
)
def test_a_plan_says_every_part_in_the_words_of_its_file(chosen):
    said = flat(plan(*MEASURED, "calibration.batch_size=2", *(f"{group}={option}" for group, option in chosen.items())))
    for group, option in {"model": "tiny", "evaluation": "perplexity", **chosen}.items():
        assert f"{group} {option}: {flat(WRITTEN.option(group, option).summary)}" in said


def test_a_plan_says_the_values_that_are_not_the_files_own_and_no_others():
    said = flat(plan(UNMEASURED, "method=sparsegpt", "method.damp=0.1", "method.width=128", "sparsity=0.3", "seed=3"))
    assert "method.damp=0.1 (0.01 by default)" in said
    assert "method.width" not in said
    assert "sparsity=0.3 (0.5 by default)" in said
    assert "pattern.sparsity" not in said  # it is what it refers to
    assert "seed=3 (0 by default)" in said
    assert "calibration.seed" not in said


def test_what_an_experiment_changes_is_said_too():
    said = flat(plan(*MEASURED, "experiment=best_quality", "model=tiny", "dataset=text", "calibration.batch_size=2"))
    for words in ("method pursuit: ", "refine.epochs=3 (8 by default)", "recover.lr=0.0001 (0.0003 by default)"):
        assert words in said
    assert "evaluation.perplexity.windows=6 (null by default)" in said


def test_an_option_inside_another_one_is_said_where_it_stands():
    said = flat(plan(UNMEASURED, "method=pursuit", "method@method.base=sparsegpt", "method.base.damp=0.5"))
    assert f"method.base = sparsegpt: {flat(WRITTEN.option('method', 'sparsegpt').summary)}" in said
    assert "method.base.damp=0.5 (0.01 by default)" in said
    routes = flat(plan(UNMEASURED, "method=hybrid"))
    assert "method.routes.attention = wanda: " in routes
    assert "method.routes.mlp.base = magnitude: " in routes


def test_nothing_is_said_of_no_evaluation_and_of_the_model_itself():
    said = plan(UNMEASURED, "method=magnitude")
    assert not re.search(r"^(evaluation|reference|settings)\b", said, re.MULTILINE)


def test_it_fits_80_columns():
    said = plan(*MEASURED, "experiment=best_quality", "model=tiny", "dataset=text", "calibration.batch_size=2")
    assert max(map(len, said.splitlines()[:-1])) <= 80  # the last is the table's head


def test_a_users_own_option_is_said_in_its_own_words(work):
    (work / "own" / "method").mkdir(parents=True)
    (work / "own" / "method" / "mine.yaml").write_text(
        "# Mine, for a test. More.\n_target_: sparsity.methods.Wanda\nscope: row  # of rows\n"
    )
    ended = command(
        "--config-dir", str(work / "own"), *SMALL, UNMEASURED, "method=mine", "plan=true", "method.scope=layer"
    )
    assert ended.status == 0, ended.err
    assert "mine: Mine, for a test." in ended.out
    assert "method.scope=layer (row by default)" in ended.out


def test_outside_hydra_nothing_is_known(monkeypatch):
    monkeypatch.setattr(HydraConfig, "initialized", staticmethod(lambda: False))
    assert [*composition({"method": {}}, {"method": "wanda"})] == []

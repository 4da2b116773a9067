"""The commands of the two documents that this project came from, in our words: each runs, prunes what it says and measures it.

The options are the documents' own; the model and the text are small.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from commands import MEASURED, SMALL, Run, command, run, workplace
from composing import compose

WANDA_GREEDY = "method=wanda corrector=greedy sparsity=0.5 corrector.fraction=0.05 corrector.step=0.01"
WANDA_HESSIAN = (
    "method=wanda corrector=hessian corrector.select=moderate corrector.fraction=0.10 corrector.max_change=0.05 "
    "corrector.damp=1e-5"
)
COMMANDS = [
    "method=hybrid sparsity=0.5 calibration.num_sequences=128",
    "method=hybrid sparsity=0.5 tfidf=topic tfidf.num_topics=128",
    "method=hybrid sparsity=0.5 method@method.routes.mlp=neuronrank_old",
    "method=hybrid sparsity=0.5 tfidf.idf_exp=2.0",
    "method=hybrid sparsity=0.5 scope.last_blocks=1",
    "method=neuronrank_tfidf sparsity=0.5",
    "method=neuronrank_old sparsity=0.5",
    WANDA_GREEDY,
    WANDA_HESSIAN,
    "method=wanda corrector=none",
    "method=hybrid corrector=hessian",  # the user's own
    "method=hybrid corrector=greedy corrector.select=top corrector.salience=james_stein",
    "method=sparsegpt pattern=2of4 corrector=optimal",
]
EXPERIMENT = {"hybrid_vs_wanda": 8, "correctors": 4, "propagation": 8}  # and how many runs are left of it below


@pytest.fixture(scope="module", autouse=True)
def work(tmp_path_factory):
    with workplace(tmp_path_factory.mktemp("work")) as folder:
        yield folder


def sane(result: dict[str, Any]) -> None:
    asked, found = result["sparsity"]["asked"], result["sparsity"]["found"]
    assert asked - 1 / 64 < found <= asked + 1e-12  # rounded down in every row of 64 inputs
    assert result["sparsity"]["zeros"] > 0
    assert result["perplexity"]["pruned"] > 1
    assert result["perplexity"]["dense"] > 1
    assert sum(result["seconds"].values()) > 0
    errors = [result["layers"][name] for name in ("error_before_mean", "relative_error_mean")]
    if result["choices"]["corrector"] != "none":
        assert 0 < errors[1] <= errors[0] < 1
        assert 0 <= result["layers"]["corrector_applied_mean"] <= 1


@pytest.mark.parametrize("words", COMMANDS)
def test_a_seed_command_runs(words, work):
    few = ["calibration.seqlen=4"] if "num_sequences" in words else []  # the text is short
    done = run(*words.split(), *few, *MEASURED, into=re.sub(r"\W+", "-", words))
    sane(done.result)
    options = {word.partition("=")[0]: word.partition("=")[2] for word in words.split()}
    assert done.result["choices"]["method"] == options["method"]
    assert len(done.layers) == (7 if "scope.last_blocks" in options else 14)


@pytest.mark.parametrize("name", EXPERIMENT)
def test_a_study_is_a_sweep(name, work):
    """Its own grid, but for one seed, on the small model. Points that ask for the same are run once."""
    text = ["dataset=text", "dataset.calibration=calibration.txt", "dataset.evaluation=evaluation.txt"]
    config = compose(f"experiment={name}")
    words = [*SMALL[:1], *text, *SMALL[4:], *MEASURED, "seed=0", f"name={name}"]
    ended = command("-m", f"experiment={name}", *words)
    assert ended.status == 0, ended.err
    results = [Run(path.parent).result for path in Path("outputs", name).rglob("result.json")]
    assert config.name == name
    assert len({result["run_key"] for result in results}) == len(results) >= EXPERIMENT[name]
    for result in results:
        if result["choices"]["method"] != "dense":
            sane(result)


def test_options_that_nobody_reads_are_named(work):
    words = [*SMALL, "evaluation=[]", "tfidf.idf_exp=2.0"]
    assert "method=wanda does not read tfidf: tfidf.idf_exp=2.0 changes nothing" in command(*words, "method=wanda").out
    assert "does not read" not in command(*words, "method=hybrid").out

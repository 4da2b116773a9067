"""model.stream=true, as a whole run: the same result as without; and what is refused before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from checkpoints import save
from commands import MEASURED, SMALL, UNMEASURED, Run, command, folders, refuse
from composing import CPU, assembled, compose
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from sparsity import engine
from sparsity.core import UserError
from sparsity.models import Decoder, Tiny
from sparsity.models.files import INDEX
from sparsity.options.settings import read
from sparsity.processes import Group
from sparsity.stages import journal
from sparsity.stages.job import Job, Place
from sparsity.stages.loading import Load

DENSE = ("model=local", "model.path=dense")
STREAMED = (*DENSE, "model.stream=true")


@pytest.fixture(autouse=True)
def dense(work: Path) -> Path:
    """A checkpoint of four blocks."""
    return save(Tiny(seed=0, hidden_size=64, num_blocks=4, tie_word_embeddings=True).load(None), work / "dense")


def run(*words: str, into: str) -> Run:
    ended = command(*SMALL, *words, f"hydra.run.dir={into}")
    assert ended.status == 0, ended.err
    return Run(Path(into).absolute())


def weights(run: Run) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run.checkpoint).state_dict()


def same(a: Run, b: Run) -> None:
    for key in ("mask_sha256", "perplexity", "sparsity", "evaluation", "blocks"):
        one, two = a.result[key], b.result[key]
        assert {**one, "seconds_mean": 0} == {**two, "seconds_mean": 0} if key == "blocks" else one == two, key
    timeless = [[{k: v for k, v in row.items() if "seconds" not in k} for row in run.layers] for run in (a, b)]
    assert timeless[0] == timeless[1]
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


RUNS = {
    "wanda": ("method=wanda", "evaluation=[perplexity,divergence]"),
    "sparsegpt, dense": ("method=sparsegpt", "corrector=greedy", "calibration.propagate=dense"),
    "sparsegpt, no cache": ("method=sparsegpt", "calibration.propagate=dense", "cache.statistics=false"),
    "topics": ("method=hybrid", "tfidf=topic", "tfidf.num_topics=2", "corrector=optimal"),
    "refined": ("method=wanda", "refine=block", "refine.epochs=2", "calibration.batch_size=1"),
    "owl": ("method=wanda", "allocation=owl"),
    "held out": ("method=wanda", "calibration.held_out=2", "corrector=optimal"),
    "last block": ("method=magnitude", "scope.last_blocks=1"),
    "bfloat16": ("method=sparsegpt", "dtype=bfloat16"),
}


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_run_finds_and_saves_the_same(words):
    ordinary = run(*MEASURED, *words, *DENSE, "save=true", into="a")
    streamed = run(*MEASURED, *words, *STREAMED, "save=true", into="b")
    same(ordinary, streamed)
    assert {path.name for path in ordinary.folder.iterdir()} == {path.name for path in streamed.folder.iterdir()}
    manifests = [json.loads((run.checkpoint / "sparsity.json").read_text()) for run in (ordinary, streamed)]
    assert manifests[0]["layers"] == manifests[1]["layers"]
    index = json.loads((streamed.checkpoint / INDEX).read_text())
    for name, told in manifests[1]["layers"].items():
        with safe_open(streamed.checkpoint / index["weight_map"][f"{name}.weight"], framework="pt") as file:
            assert int((file.get_tensor(f"{name}.weight") == 0).sum()) == told["zeros"]


def killed(patch: pytest.MonkeyPatch, *words: str) -> None:
    """A run that ends in the third of four blocks."""
    inner = engine._prune_layer

    class Killed(BaseException):
        """As a signal."""

    def dies(plan, block, site, *rest):
        if site.name.endswith("layers.2.mlp.up_proj"):
            raise Killed
        return inner(plan, block, site, *rest)

    patch.setattr(engine, "_prune_layer", dies)
    with pytest.raises(Killed):
        command(*SMALL, *words)


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
def test_a_killed_run_goes_on(monkeypatch, propagate):
    words = (*STREAMED, *MEASURED, "method=sparsegpt", f"calibration.propagate={propagate}", "save=true")
    whole = run(*words, into="whole")
    with monkeypatch.context() as patch:
        killed(patch, *words)
    ended = command(*SMALL, *words)
    assert "resuming at block 3 of 4" in ended.out, ended.err
    [folder] = folders()
    same(whole, Run(folder))


class Late:
    """In the place of the journal's writer: does what it was given when somebody waits for it, the next block pruned by then."""

    def __init__(self, workers: int):
        assert workers == 1

    def submit(self, fn: Callable[..., None], *arguments: object) -> Late:
        self.result = partial(fn, *arguments)
        return self

    def shutdown(self) -> None:
        """Nothing is under way."""


@pytest.mark.parametrize("words", [DENSE, STREAMED], ids=["whole", "streamed"])
def test_the_journal_keeps_a_block_as_it_was_put_away(monkeypatch, words):
    words = (*words, *MEASURED, "method=wanda", "corrector=optimal", "save=true")
    whole = run(*words, into="whole")
    with monkeypatch.context() as patch:
        patch.setattr(journal, "ThreadPoolExecutor", Late)
        killed(patch, *words)
    assert "resuming at block 3 of 4" in command(*SMALL, *words).out
    [folder] = folders()
    same(whole, Run(folder))


def test_every_point_of_a_sweep_starts_from_the_files():
    grid = (*MEASURED, "method=wanda,magnitude", "sparsity=0.5,0.6", "save=true")
    for which, words in (("a", DENSE), ("b", STREAMED)):
        ended = command("-m", *SMALL, *words, *grid, f"hydra.sweep.dir={which}")
        assert ended.status == 0, ended.err
    for point in "0123":
        same(Run(Path("a", point).absolute()), Run(Path("b", point).absolute()))


def test_another_model_may_stream_too():
    """The one to compare with."""
    words = (*MEASURED, *DENSE, "method=wanda", "reference=local", "reference.path=dense")
    one, two = run(*words, into="a"), run(*words, "reference.stream=true", "cache.limit_gib=0", into="b")
    assert one.result["perplexity"] == two.result["perplexity"]


REFUSED = {
    "tasks": (["evaluation=[perplexity,lm_eval]"], ["evaluation lm_eval runs whole models", "perplexity, divergence"]),
    "text": (["evaluation=[generation]"], ["evaluation generation runs whole models"]),
    "cost": (["evaluation=[cost]"], ["evaluation cost runs whole models"]),
    "probes": (["allocation=sensitivity"], ["runs the whole model many times", "allocation=owl"]),
    "packed": (["save=true", "packed=true"], ["packed=true holds the whole model"]),
    "recovery": (["recover=distill"], ["recover tunes the survivors of all blocks together", "Use refine=block"]),
    "writing": (
        ["calibration.written=2"],
        ["calibration.written=2 runs the whole model for every token", "expected 0"],
    ),
}


@pytest.mark.parametrize("words,says", REFUSED.values(), ids=REFUSED)
def test_what_needs_the_whole_model_is_refused_before_it_is_loaded(monkeypatch, words, says):
    monkeypatch.setattr(Decoder, "__init__", refuse)
    ended = command(*SMALL, *STREAMED, *words)
    assert ended.status == 1
    assert all(word in ended.err for word in says), ended.err


def test_several_processes_are_refused():
    words = ("model=local", "model.path=dense", "model.stream=true")
    place = Place(Path("run"), Path("outputs"), {})
    job = Job(read(compose(*words)), assembled(*words), CPU, "", {}, place)
    Load().check(job)
    with pytest.raises(UserError, match=r"expected one, got 2\. Start python run\.py without torchrun"):
        Load().check(replace(job, processes=Group(0, 2)))


def test_a_packed_checkpoint_is_refused():
    run(*DENSE, UNMEASURED, "save=true", "packed=true", into="a")
    ended = command(*SMALL, "model=local", "model.path=a/packed", "model.stream=true")
    assert ended.status == 1
    assert "from which model.stream=true cannot read one block" in ended.err


def test_nothing_is_left_but_the_run():
    found = run(*STREAMED, UNMEASURED, "save=true", into="a")
    assert [path for path in found.folder.iterdir() if path.name.startswith(".")] == []
    assert all(path.stat().st_nlink == 1 for path in found.checkpoint.iterdir())

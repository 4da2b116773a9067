"""A user's mistake is one message (got, expected, what to do), a status that is not zero, and nothing left behind. No traceback.

What can be known early is known before a model is loaded, the rest before anything is computed, where that is possible.
A defect of ours is no such message: it keeps its traceback.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import save, tiny
from commands import MEASURED, SMALL, UNMEASURED, Ended, command, process, refuse, workplace
from transformers import BertConfig, BertForMaskedLM

from sparsity.models import Decoder, Tiny
from sparsity.stream import BlockStream


@pytest.fixture(autouse=True)
def work(tmp_path: Path) -> Iterator[Path]:
    with workplace(tmp_path) as folder:
        (folder / "file").write_text("not a folder")
        yield folder


def left() -> list[Path]:
    """The run folders that are there."""
    return sorted(Path("outputs").glob("*/*"))


def assert_refused(ended: Ended, *said: str) -> None:
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("error: ") == 1, ended.err  # one message, and above: nothing of Hydra's in front of it
    assert "Traceback" not in ended.err + ended.out
    assert len(ended.err) < 600, "a message, not a wall of text"
    for words in said:
        assert words in ended.err, f"{words!r} is not in: {ended.err}"
    assert left() == []


# The options of a command, and what its message must say.
EARLY = {  # no model is loaded
    "unknown option": (["sparsit=0.6"], ["no option sparsit", "Did you mean: sparsity", "seed", "scope"]),
    "unknown option, added": (["+sparsit=0.6"], ["no option sparsit", "Did you mean: sparsity"]),
    "unknown nested option": (
        ["calibration.seqlenn=3"],
        ["calibration.seqlenn", "mean: calibration.seqlen", "batch_size"],
    ),
    "option of another method": (["method=sparsegpt", "method.dampp=1"], ["Did you mean: method.damp", "method.width"]),
    "options of a part that was replaced": (
        ["experiment=best_quality", "model=tiny", "recover=none"],
        ["recover.lr, recover.held_out are no options of NoRecovery", "~recover.lr ~recover.held_out"],
    ),
    "unknown method": (
        ["method=wnda"],
        ["no method=wnda", "Did you mean method=wanda", "dense", "magnitude", "sparsegpt"],
    ),
    "unknown evaluator": (
        ["evaluation=[perplexit]"],
        ["no evaluation=perplexit", "Options of evaluation: ", "Did you mean evaluation=perplexity"],
    ),
    "unknown experiment": (["experiment=nope"], ["no experiment=nope", "first_run"]),
    "value of a method": (["method.scope=rows"], ["method.scope=rows", "expected row or layer"]),
    "sparsity of one": (["sparsity=1"], ["sparsity=1", "expected a number >= 0 and < 1"]),
    "negative sparsity": (["sparsity=-0.1"], ["sparsity=-0.1", "expected a number >= 0"]),
    "sparsity in words": (["sparsity=abc"], ["sparsity=abc", "expected a number"]),
    "n above m": (["pattern=n_of_m", "pattern.n=5"], ["pattern.n=5 and pattern.m=4", "expected n <= m"]),
    "no calibration": (
        ["calibration.num_sequences=0"],
        ["calibration.num_sequences=0", "expected a whole number >= 1"],
    ),
    "sequences of one token": (
        ["calibration.seqlen=1"],
        ["calibration.seqlen=1", "expected a whole number >= 2"],
    ),
    "no windows": (
        ["evaluation.perplexity.windows=0"],
        ["evaluation.perplexity.windows=0", "expected a whole number >= 1, such as 8, or null"],
    ),
    "windows in words": (["evaluation.perplexity.windows=two"], ["evaluation.perplexity.windows=two", "whole number"]),
    "no path": (["model=local"], ["not set: model.path", "add model.path=..."]),
    "no text": (["dataset.calibration=???"], ["not set: dataset.calibration", "add dataset.calibration=..."]),
    "no such text": (["dataset.evaluation=no.txt"], ["dataset.evaluation=no.txt does not exist", "give its path"]),
    "one text for both": (["dataset.evaluation=calibration.txt"], ["same text", "two different texts"]),
    "no such model": (["model=local", "model.path=nope"], ["model.path=nope", "expected a checkpoint folder"]),
    "no such device": (["device=gpu"], ["device=gpu is no device", "expected auto, cpu, cuda"]),
    "no such GPU": (["device=cuda:99"], ["device=cuda:99 cannot be used", "expected auto, cpu"]),
    "no real device": (["device=meta"], ["device=meta cannot be used"]),
    "integer weights": (["dtype=int8"], ["dtype=int8", "float32, bfloat16 or float16"]),
    "no such role": (
        ["scope.roles=[head]"],
        ["scope.roles", "head", "expected a list, such as [one,two], of attention or mlp"],
    ),
    "no list": (["scope.roles=mlp"], ["scope.roles=mlp", "expected a list, such as [one,two], of attention or mlp"]),
    "no flag": (["save=maybe"], ["save=maybe", "expected true or false"]),
    "foreign class": (["method._target_=os.system"], ["method._target_=os.system is refused", "allow=[os]"]),
    "no such class": (["method._target_=sparsity.methods.Nope"], ["sparsity.methods.Nope", "package.Class"]),
    "no class": (["method._target_=sparsity.core.distinct"], ["distinct is no class", "package.Class"]),
    "class that needs more": (
        ["method=wanda", "method._target_=sparsity.methods.SparseGPT"],
        ["method.damp is not set", "SparseGPT"],
    ),
    "broken reference": (["method.scope=${nope}"], ["'nope' not found", "method.scope"]),
    "several values": (["sparsity=0.1,0.2"], ["sparsity=0.1,0.2 has several values", "add -m"]),
}
LATE = {  # a model is loaded, and no block run
    "does not divide": (
        ["pattern=n_of_m", "pattern.m=5"],
        ["layers.0.self_attn.q_proj has 64 inputs", "multiple of 5"],
    ),
    "text too short": (["calibration.num_sequences=999"], ["has 1,", "999 sequences x 32", "fewer or shorter"]),
    "too many windows": (["evaluation.perplexity.windows=999"], ["windows of 32", "at least 999", "Ask for fewer"]),
    "window too long": (["evaluation.perplexity.seqlen=9999"], ["0 windows of 9999", "Ask for fewer or shorter"]),
    "no such layer": (["scope.skip=[nope]"], ["scope.skip names 'nope'", "q_proj", "model.layers.0.self_attn.q_proj"]),
    "no such depth": (["scope.last_blocks=99"], ["scope.last_blocks=99", "expected 1 to 2"]),
    "nothing to prune": (["scope.roles=[]"], ["leaves no layer", "Widen the scope"]),
}


@pytest.mark.parametrize("mistake", EARLY)
def test_early_mistake(mistake, monkeypatch):
    monkeypatch.setattr(Tiny, "load", refuse)
    options, said = EARLY[mistake]
    assert_refused(command(*SMALL, *MEASURED, *options), *said)


@pytest.mark.parametrize("mistake", LATE)
def test_mistake_that_only_the_model_shows(mistake, monkeypatch):
    monkeypatch.setattr(Decoder, "logits", refuse)
    monkeypatch.setattr(Decoder, "record", refuse)
    options, said = LATE[mistake]
    assert_refused(command(*SMALL, *MEASURED, *options), *said)


@pytest.mark.parametrize("mistake", ["does not divide", "no such layer", "no such depth"])
def test_a_plan_finds_the_same_mistakes(mistake):
    options, said = LATE[mistake]
    assert_refused(command(*SMALL, *MEASURED, *options, "plan=true"), *said)


def test_a_typo_in_an_experiment_is_no_option_either(work):
    """Hydra merges a file's keys whatever they are: nothing would read this one."""
    (work / "own" / "experiment").mkdir(parents=True)
    (work / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\ncalibraton:\n  num_sequences: 2\n")
    ended = command("--config-dir", str(work / "own"), *SMALL, UNMEASURED, "experiment=mine")
    assert_refused(ended, "no option calibraton", "Did you mean: calibration")


# --- models -----------------------------------------------------------------------------------------------------------


def checkpoint(folder: Path, change) -> str:
    """model.path=... of a tiny checkpoint after `change(its blocks' MLPs)`."""
    loaded = tiny()
    change([block.mlp for block in loaded.model.model.layers])
    return f"model.path={save(loaded, folder)}"


def test_a_model_that_predicts_no_next_token(work):
    config = BertConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForMaskedLM(config).save_pretrained(work / "bert")
    ended = command(*SMALL, UNMEASURED, "model=local", "model.path=bert")
    assert_refused(ended, "BertForMaskedLM", "expected a causal language model", "choose")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value, work):
    def harm(mlps):
        mlps[1].up_proj.weight[3, 4] = value

    ended = command(*SMALL, UNMEASURED, "model=local", checkpoint(work / "own", harm), "method=magnitude")
    assert_refused(ended, "model.layers.1.mlp.up_proj.weight", "expected finite numbers", "Is the checkpoint damaged?")


def overflow(mlps) -> None:
    """Finite weights and layer inputs whose product is not: in the last layer of block 0."""
    mlps[0].up_proj.weight.mul_(1e6)
    mlps[0].down_proj.weight.mul_(1e38)


def test_activations_that_overflow_are_named(work):
    own = checkpoint(work / "own", overflow)
    ended = command(*SMALL, UNMEASURED, "model=local", own, "hydra.run.dir=run")
    assert_refused(ended, "model.layers.0: its output", "expected finite activations", "check the model's weights")
    assert not Path("run/result.json").exists()


def test_a_dense_model_that_breaks_is_said(work):
    own = checkpoint(work / "own", overflow)
    ended = command(*SMALL, *MEASURED, "model=local", own, "hydra.run.dir=run", "save=true")
    assert_refused(
        ended, "the dense model's NLL on evaluation window 0 is nan", "model.layers.0.mlp.down_proj", "check its"
    )
    assert {path.name for path in Path("run").iterdir()} <= {"config.yaml", "environment.json"}
    assert not list(Path("cache").rglob("*.safetensors"))  # nor is it remembered


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags,option", [([], "hydra.run.dir"), (["-m"], "hydra.sweep.dir")])
def test_a_folder_that_cannot_be_made(flags, option, monkeypatch):
    monkeypatch.setattr(Tiny, "load", refuse)
    ended = command(*flags, *SMALL, f"{option}=file/below")
    assert_refused(ended, "file/below cannot be made", f"choose another {option}")
    assert Path("file").read_text() == "not a folder"


def test_a_folder_that_cannot_be_written(work, monkeypatch):
    """Known before a model is loaded. (Permissions do not stop the superuser, so the disk is full instead.)"""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tiny, "load", refuse)
    monkeypatch.setattr(Path, "touch", full)
    assert_refused(command(*SMALL, UNMEASURED), "cannot be written (No space left on device)", "another hydra.run.dir")


def test_a_result_that_is_no_result(work):
    (work / "outputs" / "runs" / "a").mkdir(parents=True)
    (work / "outputs" / "runs" / "a" / "result.json").write_text('{"schema": 1, "run_k')
    ended = command(*SMALL, UNMEASURED)
    assert ended.status == 1
    assert "outputs/runs/a/result.json cannot be read" in ended.err
    assert [path.name for path in left()] == ["a"]


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_sweep_finishes_its_other_points():
    ended = command("-m", *SMALL, UNMEASURED, "sparsity=1,0.3,-1", "hydra.sweep.dir=sweep")
    assert ended.status == 1
    assert "#0 error: sparsity=1 is not valid" in ended.err
    assert "#2 error: sparsity=-1 is not valid" in ended.err
    assert "not every point of the sweep finished" in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert json.loads(Path("sweep/1/result.json").read_text())["sparsity"]["asked"] == pytest.approx(0.3)
    assert {path.name for path in Path("sweep").iterdir()} == {"1", "multirun.yaml", "sweep.csv", ".points"}


def test_a_defect_in_a_sweep_keeps_its_traceback(monkeypatch):
    observe = BlockStream.observe

    def breaks(self, block, needs):
        if not needs:
            return observe(self, block, needs)
        raise RuntimeError("planted")

    monkeypatch.setattr(BlockStream, "observe", breaks)
    ended = command("-m", *SMALL, UNMEASURED, "sparsity=1,0.5")
    assert ended.status == 1
    assert "#0 error: sparsity=1" in ended.err
    assert "#1 Traceback" in ended.err
    assert "RuntimeError: planted" in ended.err


# --- what is no mistake of the user's ---------------------------------------------------------------------------------


def test_interrupted(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt  # not the signal: a shell starts background jobs with SIGINT ignored

    with monkeypatch.context() as patch:
        patch.setattr(BlockStream, "advance", interrupt)
        ended = command(*SMALL, UNMEASURED, "hydra.run.dir=run")
    assert ended.status == 130
    assert "interrupted" in ended.err
    assert "the same command" in ended.err
    assert not Path("run/result.json").exists()
    assert command(*SMALL, UNMEASURED, "hydra.run.dir=run").status == 0


@pytest.mark.parametrize("error", [RuntimeError("planted"), OSError(5, "planted"), ValueError("planted")])
def test_a_defect_is_raised_as_it_is(error, monkeypatch):
    def breaks(*_):
        raise error

    monkeypatch.setattr(BlockStream, "advance", breaks)
    with pytest.raises(type(error), match="planted") as caught:
        command(*SMALL, UNMEASURED)
    assert caught.value is error


OWN = """
from dataclasses import dataclass
from sparsity.core import Pruned

@dataclass(frozen=True)
class Breaks:
    how: str

    def __post_init__(self):
        if self.how == "at once":
            raise RuntimeError("planted in the constructor")

    def check(self, sites, pattern):
        pass

    def needs(self, site):
        return ()

    def asked(self, site, pattern):
        return 0.0

    def prune(self, layer, pattern, stats):
        raise RuntimeError("planted in prune")
"""


def own_method(work: Path, how: str) -> list[str]:
    """A user's own method, outside the repository: the options that choose it."""
    (work / "conf" / "method").mkdir(parents=True)
    (work / "conf" / "method" / "breaks.yaml").write_text(f"_target_: own_method.Breaks\nhow: {how}\n")
    (work / "own_method.py").write_text(OWN)
    return ["--config-dir", str(work / "conf"), *SMALL, UNMEASURED, "method=breaks", "allow=[own_method]"]


def test_a_process_with_a_defect(work):
    ended = process(*own_method(work, "later"), "hydra.run.dir=run", PYTHONPATH=str(work))
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error executing job") or ended.stderr.startswith("Traceback")
    assert "own_method.py" in ended.stderr
    assert ended.stderr.splitlines()[-1] == "RuntimeError: planted in prune"
    assert not Path("run/result.json").exists()


def test_a_process_with_a_mistake():
    ended = process(*SMALL, UNMEASURED, "sparsity=1")
    assert_refused(Ended(ended.returncode, ended.stdout, ended.stderr), "sparsity=1", "expected a number >= 0 and < 1")


def test_a_constructor_that_breaks_is_a_defect(work, monkeypatch):
    monkeypatch.syspath_prepend(str(work))
    with pytest.raises(RuntimeError, match="planted in the constructor"):
        command(*own_method(work, "at once"))
    sys.modules.pop("own_method")

"""`torchrun --nproc-per-node=2 run.py ...`: two real processes, one run. What it leaves is what one process leaves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from commands import MEASURED, SMALL, Run, command, folders, run
from together import torchrun

pytestmark = [pytest.mark.usefixtures("work"), pytest.mark.slow]
SENSITIVE = ("allocation=sensitivity", "allocation.sequences=2")
FOUR = ("model.num_blocks=4", "calibration.batch_size=1")

# A method that a test can make fail or die in one of the processes: FAILS=<rank>, DIES=<rank>.
FRAGILE = """
import os, signal
from dataclasses import dataclass
from sparsity.core import UserError
from sparsity.methods.wanda import INPUT, Wanda

@dataclass(frozen=True)
class Fragile:
    base: Wanda

    def check(self, sites, pattern): ...
    def needs(self, site): return (INPUT,)
    def asked(self, site, pattern): return pattern.sparsity

    def prune(self, layer, pattern, stats):
        if layer.site.name.endswith("2.self_attn.q_proj"):
            rank = os.environ.get("RANK", "0")
            if os.environ.get("FAILS") == rank: raise UserError("this one had enough")
            if os.environ.get("BREAKS") == rank: raise ArithmeticError("nobody foresaw this")
            if os.environ.get("DIES") == rank: os.kill(os.getpid(), signal.SIGKILL)
        return self.base.prune(layer, pattern, stats)
"""


@pytest.fixture
def fragile(work: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (work / "lab.py").write_text(FRAGILE)
    (work / "conf" / "method").mkdir(parents=True)
    (work / "conf" / "method" / "fragile.yaml").write_text(
        "_target_: lab.Fragile\nbase:\n  _target_: sparsity.methods.Wanda\n  scope: row\n"
    )
    monkeypatch.syspath_prepend(str(work))  # of the run in this process
    monkeypatch.setenv("PYTHONPATH", str(work))
    return ("--config-dir", str(work / "conf"), "allow=[lab]", "method=fragile")


def told(text: str) -> str:
    """What was said, without what torchrun says itself."""
    return "\n".join(line for line in text.splitlines() if line.startswith("error:"))


def alike(two: Run, one: Run, apart: float) -> None:
    """`apart`: how far weights and masks may be from one another, relative to all. An update is chaotic in float32."""
    a, b = two.result, one.result
    assert a["run_key"] == b["run_key"]
    for part in ("sparsity", "choices", "composition", "calibration", "leakage", "model"):
        assert a[part] == b[part], part
    assert a["perplexity"]["dense"] == b["perplexity"]["dense"]
    assert a["perplexity"]["pruned"] == pytest.approx(b["perplexity"]["pruned"], rel=1e-3)
    assert [row["name"] for row in two.layers] == [row["name"] for row in one.layers]
    assert two.layers[0].keys() == one.layers[0].keys()
    assert (len(a["processes"]), len(b["processes"])) == (2, 1)
    assert a["processes"][1]["peak_memory_bytes"] > 0
    for name, weight_OI in two.weights.items():
        other_OI = one.weights[name]
        differ = (weight_OI == 0) != (other_OI == 0)
        assert differ.float().mean() <= apart, name
        assert (weight_OI - other_OI).where(~differ, 0).norm() <= apart * other_OI.norm(), name


@pytest.mark.parametrize(
    "words,apart",
    [
        (("method=wanda",), 0.0),
        (("method=hybrid", "tfidf=topic", "tfidf.num_topics=3", "calibration.propagate=dense"), 0.0),
        (("method=sparsegpt", "calibration.held_out=3"), 0.01),
        # in float32 the order of sums alone moves a solve on so little text by 1e-3, and a few weights of the next block's masks
        (("method=wanda", "corrector=optimal", "corrector.precision=float64", *SENSITIVE), 1e-4),
        (("method=sparsegpt", "pattern=2of4", "corrector=greedy", "calibration.propagate=dense"), 0.01),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_two_processes_do_what_one_does(words, apart):
    ended = torchrun(*SMALL, *MEASURED, *words, "calibration.batch_size=1", "save=true", "hydra.run.dir=two")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("recounted in the model") == 1  # one of them talks
    one = run(*MEASURED, *words, "calibration.batch_size=1", "save=true", "rerun=true", into="one")
    two = Run(Path("two"))
    alike(two, one, apart)
    assert sorted(path.name for path in Path("two").iterdir()) == sorted(path.name for path in Path("one").iterdir())
    environment = json.loads((two.folder / "environment.json").read_text())
    assert environment["hardware"]["processes"] == 2
    assert environment["command"].startswith("torchrun --nproc-per-node=2 ")


def test_a_run_of_either_is_not_repeated_by_the_other():
    words = (*SMALL, *MEASURED, "calibration.batch_size=1")
    assert command(*words).status == 0
    ended = torchrun(*words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("finished earlier") == 1
    assert len(folders()) == 1  # and no empty one beside it


def test_statistics_are_kept_by_the_first_and_read_by_all():
    words = (*SMALL, "evaluation=[]", "calibration.propagate=dense", "calibration.batch_size=1", "method=sparsegpt")
    for sparsity, forwards in ((0.5, 2 * 4), (0.6, 0)):
        ended = torchrun(*words, f"sparsity={sparsity}", f"hydra.run.dir=at{sparsity}")
        assert ended.returncode == 0, ended.stderr
        assert Run(Path(f"at{sparsity}")).result["calibration"]["block_forwards"] == forwards
    [kept] = (Path("cache") / "statistics").glob("*/")
    assert len([*kept.glob("*.safetensors")]) == 2  # a file a block, written once
    # one process folds in another order, so it has statistics of its own
    assert run(*words, into="one").result["calibration"]["block_forwards"] == 2 * 4


def test_a_run_of_which_one_process_was_killed_goes_on(fragile):
    words = (*fragile, *SMALL, *FOUR, *MEASURED, "corrector=optimal", "save=true")
    died = torchrun(*words, DIES="1")
    assert died.returncode != 0
    assert told(died.stderr) == ""
    [folder] = folders()
    assert (folder / "journal").is_dir()
    ended = torchrun(*words)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("resuming at block 3 of 4") == 1
    assert folders() == [folder]
    whole = torchrun(*words, "rerun=true", "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    resumed, other = Run(folder), Run(Path("whole"))
    assert resumed.result["mask_sha256"] == other.result["mask_sha256"]
    assert resumed.result["resumed"] == [2]
    for name, weight_OI in resumed.weights.items():
        assert torch.equal(weight_OI, other.weights[name]), name  # to the last bit


def test_other_processes_start_again(fragile):
    words = (*fragile, *SMALL, *FOUR, "evaluation=[]")
    assert torchrun(*words, DIES="0").returncode != 0
    ended = command(*words)
    assert ended.status == 0, ended.err
    assert "processes 2, now 1" in ended.out


@pytest.mark.parametrize("by", ["0", "1"])
def test_a_mistake_that_one_process_sees_is_said_once_and_ends_all(fragile, by):
    ended = torchrun(*fragile, *SMALL, *FOUR, "evaluation=[]", FAILS=by)
    assert ended.returncode != 0
    assert told(ended.stderr) == "error: this one had enough"
    [folder] = folders()
    assert not (folder / "result.json").exists()


def test_a_defect_keeps_its_traceback(fragile):
    ended = torchrun(*fragile, *SMALL, *FOUR, "evaluation=[]", BREAKS="1")
    assert ended.returncode != 0
    assert ended.stderr.count("ArithmeticError: nobody foresaw this") == 1


@pytest.mark.parametrize(
    "words,says",
    [
        (("sparsity=2",), "error: sparsity=2"),
        (("sparsety=0.5",), "error: There is no option sparsety."),
        (("refine=block", "calibration.batch_size=1"), "error: refine tunes a block step by step"),
        (
            ("model=local", "model.path=dense", "model.stream=true"),
            "error: model.stream=true keeps the blocks that have changed in the folder of one process: expected one, got 2",
        ),
        (("-m", "sparsity=0.5,0.6"), "error: torchrun starts the processes of one run, got -m"),
    ],
)
def test_a_mistake_that_all_see_is_said_once(words, says):
    ended = torchrun(*SMALL, *words)
    assert ended.returncode != 0
    assert ended.stderr.count(says) == 1, ended.stderr
    assert told(ended.stderr).count("error:") == 1
    assert not Path("outputs").exists() or folders() == []
    assert not Path("multirun").exists()


def test_a_plan_is_shown_once():
    ended = torchrun(*SMALL, "plan=true")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("calibration  4 sequences") == 1
    assert os.listdir("outputs/runs") == []

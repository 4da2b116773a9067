"""One run, end to end, as a person starts it: what its options do, its plan, its sweeps, and a process of its own."""

from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import save_with_zeros, tiny
from commands import MEASURED, SMALL, UNMEASURED, Run, command, folders, process, refuse, run

from sparsity.models import Decoder
from sparsity.stream import BlockStream

pytestmark = pytest.mark.usefixtures("work")


def test_dense_removes_nothing(work):
    share = save_with_zeros(work / "own")
    found = run(*MEASURED, "model=local", "model.path=own", "method=dense")
    perplexity = found.result["perplexity"]
    assert perplexity["pruned"] == perplexity["dense"]
    assert all(row["nll_dense"] == row["nll_pruned"] for row in found.windows)
    assert found.result["sparsity"]["asked"] == 0
    assert found.result["sparsity"]["found"] == share > 0.02
    assert {float(row["sparsity_found"]) for row in found.layers} == {0.0}


def test_nothing_is_measured_without_evaluators():
    found = run(UNMEASURED)
    assert found.result["perplexity"] == {"dense": None, "pruned": None}
    assert not (found.folder / "windows.csv").exists()
    assert found.result["sparsity"]["found"] == 0.5


SCOPES = {
    "roles": (["scope.roles=[mlp]"], lambda site: site.role == "mlp"),
    "last_blocks": (["scope.last_blocks=1"], lambda site: site.block == 1),
    "skip a kind": (["scope.skip=[down_proj]"], lambda site: site.leaf != "down_proj"),
    "skip one": (
        ["scope.skip=[model.layers.0.mlp.up_proj]"],
        lambda site: site.name != "model.layers.0.mlp.up_proj",
    ),
    "all three": (
        ["scope.roles=[attention]", "scope.last_blocks=1", "scope.skip=[q_proj]"],
        lambda site: site.role == "attention" and site.block == 1 and site.leaf != "q_proj",
    ),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_scope_changes_exactly_the_layers_it_names(scope):
    options, chosen = SCOPES[scope]
    found = run(UNMEASURED, "save=true", *options)
    before = tiny().model.state_dict()
    changed = {name for name, after in found.weights.items() if not torch.equal(after, before[name])}
    named = [site.name for site in Decoder(tiny().model).sites if chosen(site)]
    assert changed == {f"{name}.weight" for name in named}
    assert [row["name"] for row in found.layers] == named
    assert found.result["sparsity"]["layers"] == len(named)


# --- Hydra's folders, plans and experiments ---------------------------------------------------------------------------


def test_a_sweep_leaves_a_result_for_every_point():
    ended = command(*SMALL, UNMEASURED, "-m", "method=wanda,magnitude", "hydra.sweep.dir=sweep")
    assert ended.status == 0, ended.err
    points = [Run(Path("sweep") / number) for number in "01"]
    assert [point.result["choices"]["method"] for point in points] == ["wanda", "magnitude"]
    assert points[0].result["mask_sha256"] != points[1].result["mask_sha256"]
    again = command("-m", *SMALL, UNMEASURED, "method=magnitude,wanda", "hydra.sweep.dir=sweep")
    assert again.out.count("finished earlier") == 2


def test_runs_started_at_once_have_their_own_folders():
    for seed in (0, 1):
        assert command(*SMALL, UNMEASURED, f"seed={seed}").status == 0
    assert len(folders()) == 2


def test_experiment_is_a_delta():
    ended = command("experiment=first_run", "--cfg", "job")
    assert ended.status == 0, ended.err
    config = yaml.safe_load(ended.out)
    assert config["name"] == "first_run"
    assert config["method"]["_target_"] == "sparsity.methods.Wanda"
    assert config["model"]["_target_"] == "sparsity.models.SmolLM2"
    assert config["calibration"]["num_sequences"] == 8
    assert config["evaluation"]["perplexity"]["windows"] == 16


def test_experiments_add_up():
    ended = command("experiment=[protocol,best_quality]", "sparsity=0.6", "--cfg", "job")
    assert ended.status == 0, ended.err
    config = yaml.safe_load(ended.out)
    assert config["name"] == "protocol"
    assert config["evaluation"]["perplexity"]["windows"] == 24
    assert config["recover"]["_target_"] == "sparsity.recover.Distillation"
    assert config["calibration"]["written"] == 80
    assert config["sparsity"] == 0.6


def test_a_plan_is_only_said(monkeypatch):
    monkeypatch.setattr(BlockStream, "observe", refuse)
    monkeypatch.setattr(Decoder, "logits", refuse)
    ended = command(*SMALL, *MEASURED, "plan=true", "method=sparsegpt")
    assert ended.status == 0, ended.err
    for said in ("q_proj", "down_proj", "128 x 64", "Gram", "50.00%", "4", "calibration.txt", "memory"):
        assert said in ended.out, said
    assert folders() == []


def test_help_lists_the_options():
    ended = command("--help")
    assert ended.status == 0
    for said in ("tfidf: doc, topic", "sparsity: 0.5", "plan=true"):
        assert said in ended.out, said


# --- as a process of its own ------------------------------------------------------------------------------------------


def test_a_process_of_its_own():
    ended = process(*SMALL, *MEASURED, "hydra.run.dir=run")
    assert ended.returncode == 0, ended.stderr
    result = Run(Path("run")).result
    assert ended.stderr == ""
    for figure in result["perplexity"].values():
        assert f"{figure:.2f}" in ended.stdout
    assert "50.00%" in ended.stdout
    assert str(Path("run").absolute()) in ended.stdout


@pytest.mark.slow
def test_smollm2(monkeypatch):
    """The embedded default, as a newcomer meets it. The model lies in the user's own cache: it is fetched once."""
    monkeypatch.delenv("SPARSITY_CACHE")
    ended = process(
        "model=smollm2", "dataset=pydocs", "method=wanda", "calibration.num_sequences=2", "calibration.seqlen=128",
        "evaluation.perplexity.seqlen=128", "evaluation.perplexity.windows=4", "hydra.run.dir=run",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = Run(Path("run"))
    assert len(found.layers) == found.result["sparsity"]["layers"] == 210
    assert found.result["sparsity"]["asked"] == 0.5
    assert found.result["sparsity"]["found"] == pytest.approx(0.5, abs=1e-6)
    assert found.result["perplexity"]["pruned"] > found.result["perplexity"]["dense"] > 1

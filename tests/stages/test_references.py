"""Whole runs: another model in the dense one's place, text that is calibrated and evaluated on, manifest and packed form."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
import yaml
from checkpoints import same, tiny
from commands import MEASURED, SMALL, UNMEASURED, command, run
from safetensors.torch import load_file

from sparsity.evaluation import Cost, Generation
from sparsity.models import Local
from sparsity.models.packed import load_packed, save_packed
from sparsity.stages import saving as checkpoint

pytestmark = pytest.mark.usefixtures("work")
WATCH = ("evaluation=[perplexity,divergence,generation]", *MEASURED, "evaluation.generation.max_new_tokens=5")


def test_a_pruned_checkpoint_of_anyone_is_compared_with_its_dense_model():
    """The same figures as in the run that pruned it, and the zeros that it has."""
    pruned = run(*WATCH, "method=wanda", "save=true")
    path = pruned.checkpoint
    found = run(*WATCH, "model=local", f"model.path={path}", "method=dense", "reference=tiny", into="judged")
    assert found.result["perplexity"] == pruned.result["perplexity"]
    assert found.result["evaluation"]["divergence"] == pruned.result["evaluation"]["divergence"]
    assert found.result["evaluation"]["divergence"]["kl"] > 0
    assert found.table("generations") == pruned.table("generations")
    assert found.table("divergence") == pruned.table("divergence")
    assert found.result["sparsity"]["found"] == 0.5
    assert found.result["reference"]["name"] == "tiny"
    assert pruned.result["reference"] is None
    alone = run(*WATCH, "model=local", f"model.path={path}", "method=dense", into="alone")
    assert (
        alone.result["perplexity"]["dense"]
        == alone.result["perplexity"]["pruned"]
        == pruned.result["perplexity"]["pruned"]
    )
    assert alone.result["evaluation"]["divergence"]["kl"] == 0


def test_a_reference_must_read_the_same_tokens(work):
    other = tiny()
    other.tokenizer.add_tokens(["pruning"])
    other.model.resize_token_embeddings(len(other.tokenizer))
    other.model.save_pretrained(work / "other")
    other.tokenizer.save_pretrained(work / "other")
    ended = command(*SMALL, *MEASURED, "reference=local", "reference.path=other")
    assert ended.status == 1
    assert "reference=other has another vocabulary than tiny: expected the model that it was made from" in ended.err


def test_a_reference_is_checked_before_a_model_is_loaded():
    ended = command(*SMALL, *MEASURED, "reference=local", "reference.path=nowhere")
    assert "nowhere" in ended.err
    assert ended.status == 1


def test_shared_text_is_reported(work):
    text = (work / "calibration.txt").read_text()
    (work / "evaluation.txt").write_text("another start " + text)
    found = run(*MEASURED)
    leak = found.result["leakage"]
    assert leak == {"span": 50, "tokens": 4 * 32, "shared": 0, "share": 0}  # sequences of 32 tokens hold no span of 50
    long = run(*MEASURED, "calibration.seqlen=64", into="long")
    assert long.result["leakage"] == {"span": 50, "tokens": 256, "shared": 256, "share": 1.0}


def test_where_no_text_is_calibrated_on_or_evaluated_on_nothing_can_leak():
    assert run(*MEASURED, "method=magnitude").result["leakage"] is None
    assert run(UNMEASURED, into="unmeasured").result["leakage"] is None


def test_the_manifest_counts_the_files_zeros():
    found = run(UNMEASURED, "save=true", "scope.skip=[down_proj]")
    manifest = json.loads((found.checkpoint / "sparsity.json").read_text())
    assert {*manifest["layers"]} == {*found.pruned}
    for name, weight_OI in found.pruned.items():
        assert manifest["layers"][name] == {
            "rows": weight_OI.shape[0],
            "columns": weight_OI.shape[1],
            "zeros": int((weight_OI == 0).sum()),
            "sparsity": 0.5,
            "counted_in_file": True,
        }
    assert manifest["sparsity"] == found.result["sparsity"]
    assert manifest["mask_sha256"] == found.result["mask_sha256"]
    assert manifest["run_key"] == found.result["run_key"]
    config = yaml.safe_load((found.folder / "config.yaml").read_text())
    assert manifest["config_sha256"] == hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def test_a_checkpoint_that_lost_its_zeros_is_not_kept(monkeypatch, work):
    """What the manifest counts in the file must be what the model has."""
    stored = checkpoint._stored
    monkeypatch.setattr(checkpoint, "_stored", lambda folder: ((name, t + 1) for name, t in stored(folder)))
    with pytest.raises(RuntimeError, match=r"q_proj has \d+ zeros in the model and 0 in .*: it was not saved as it is"):
        command(*SMALL, UNMEASURED, "save=true", "hydra.run.dir=lost")
    assert not (work / "lost" / "model").exists()
    assert not (work / "lost" / "result.json").exists()


@pytest.mark.parametrize("name, times", [("generation", 1), ("cost", 2)])
def test_an_evaluator_says_whether_the_dense_models_answers_are_remembered(monkeypatch, name, times):
    """Text stays the same; seconds of another process say nothing about today's."""
    cls = {"generation": Generation, "cost": Cost}[name]
    asked, reference = [], cls.reference
    monkeypatch.setattr(cls, "reference", lambda *words: asked.append(1) or reference(*words))
    for method in ("wanda", "magnitude"):
        run(f"evaluation=[{name}]", f"method={method}", into=method)
    assert len(asked) == times


def test_the_packed_form_loads_as_the_checkpoint_it_was_made_of():
    found = run(UNMEASURED, "save=true", "packed=true", "dtype=bfloat16")
    packed = found.folder / "packed"
    one, two = (Local(str(path), stream=False).load(None) for path in (found.checkpoint, packed))
    assert same(one, two)
    assert two.model.dtype == torch.bfloat16
    assert two.model.generation_config == one.model.generation_config
    assert two.tokenizer.chat_template == one.tokenizer.chat_template
    assert {path.name for path in packed.iterdir()} - {"model.packed.safetensors"} == {
        path.name for path in found.checkpoint.iterdir()
    } - {"model.safetensors"}
    stored = sum(t.numel() * t.element_size() for t in load_file(packed / "model.packed.safetensors").values())
    dense = sum(t.numel() * t.element_size() for t in found.weights.values())
    prunable = sum(w.numel() for w in found.pruned.values())
    assert stored == dense - prunable * 2 * 7 // 16  # 9/16 of it is left


def test_packed_without_save_is_refused():
    assert "packed=true packs the checkpoint that save=true writes" in command(*SMALL, "packed=true").err


def test_a_packed_form_lacking_a_weight_is_refused():
    packed = run(UNMEASURED, "save=true", "packed=true").folder / "packed"
    tensors = load_packed(packed / "model.packed.safetensors")
    del tensors["model.norm.weight"]
    save_packed(tensors.items(), packed / "model.packed.safetensors")
    ended = command(*SMALL, UNMEASURED, "model=local", f"model.path={packed}", "hydra.run.dir=again")
    assert ended.status == 1
    assert "without model.norm.weight" in ended.err

"""The files in a run's folder: each one is complete, and the result comes last."""

import json
import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import tiny, zeros
from commands import MEASURED, SMALL, UNMEASURED, command
from composing import compose
from omegaconf import OmegaConf

from sparsity.models import Decoder
from sparsity.record.environment import peak_memory

pytestmark = pytest.mark.usefixtures("work")


def test_the_folder_holds_the_runs_files_and_nothing_else(saved):
    assert {path.name for path in saved.folder.iterdir()} == {
        "config.yaml", "environment.json", "layers.csv", "windows.csv", "result.json", "model",
    }  # fmt: skip


def test_result_is_complete(saved):
    result = saved.result
    assert result["schema"] == 2
    assert len(result["run_key"]) == 16
    assert len(result["mask_sha256"]) == 64
    assert set(result["perplexity"]) == {"dense", "pruned"}
    assert {"asked", "found"} <= set(result["sparsity"])
    assert set(result["seconds"]) == {
        "load",
        "draw",
        "allocate",
        "calibrate",
        "prune",
        "refine",
        "recover",
        "count",
        "journal",
        "evaluate",
        "save",
    }
    numbers = [*result["perplexity"].values(), *result["sparsity"].values(), *result["seconds"].values()]
    assert all(isinstance(n, int | float) and math.isfinite(n) and n >= 0 for n in numbers)
    assert result["seconds"]["calibrate"] > 0
    assert result["seconds"]["prune"] > 0
    assert 2**26 < result["peak_memory_bytes"] < 2**40  # importing torch alone takes more than 64 MiB


def test_configuration_is_the_record(saved):
    """Every option with its value, nothing left to look up: composing the same command gives exactly this."""
    text = (saved.folder / "config.yaml").read_text()
    assert "${" not in text.partition("\n")[2]
    written = yaml.safe_load(text)
    composed = compose(*SMALL, *MEASURED, "method=wanda", "save=true")
    assert written == OmegaConf.to_container(composed, resolve=True)
    assert written["pattern"]["sparsity"] == written["sparsity"] == 0.5
    assert "hydra.run.dir=run" in text.partition("\n")[0]


def test_environment_says_where(saved):
    environment = json.loads((saved.folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["hardware"]["device"] == "cpu"
    assert environment["hardware"]["memory_bytes"] > 0
    assert {"commit", "python", "platform", "time", "command"} <= set(environment)


def test_layer_table_has_a_row_for_every_layer(saved):
    columns = "block,name,role,method,rows,columns,sparsity_asked,sparsity_found,error_before,relative_error,"
    columns += "seconds,corrector_seconds"
    rows = saved.layers
    assert ",".join(rows[0]).startswith(columns)
    sites = Decoder(tiny().model).sites
    assert [(int(r["block"]), r["name"], r["role"]) for r in rows] == [(s.block, s.name, s.role) for s in sites]
    for row in rows:
        assert (int(row["rows"]), int(row["columns"])) == tuple(saved.pruned[row["name"]].shape)
        assert float(row["sparsity_found"]) == zeros(saved.pruned[row["name"]])
        assert float(row["sparsity_asked"]) == 0.5
        assert row["method"] == "wanda"
        assert float(row["seconds"]) > 0


def test_result_is_written_last(saved):
    written = {path: path.stat().st_mtime_ns for path in saved.folder.rglob("*") if path.is_file()}
    assert max(written.values()) == written[saved.folder / "result.json"]


def test_a_failing_checkpoint_leaves_no_checkpoint_and_no_result(monkeypatch):
    def full(self, path, **_):
        Path(path).mkdir()
        (Path(path) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    ended = command(*SMALL, UNMEASURED, "save=true", "hydra.run.dir=run")
    assert ended.status == 1
    assert "the checkpoint cannot be written to" in ended.err
    assert "No space left on device" in ended.err
    left = {path.name for path in Path("run").iterdir()}
    assert left == {"config.yaml", "environment.json", "layers.csv", "journal"}


def test_model_card_is_the_recipe(saved):
    card = (saved.checkpoint / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert "sparsity.methods.Wanda" in card
    assert saved.result["run_key"] in card
    assert saved.result["mask_sha256"] in card
    assert shlex.join(["run.py", *SMALL, "hydra.run.dir=run", *MEASURED, "method=wanda", "save=true"]) in card


def test_the_peak_is_the_process_s_own():
    """Linux hands the peak of a parent on to the child that it starts."""
    held = bytearray(2**30)
    held[:: 2**12] = b"x" * 2**18  # every page is touched
    said = "from sparsity.record.environment import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert peak_memory() > len(held) > int(child.stdout)

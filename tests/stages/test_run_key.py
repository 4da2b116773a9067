"""When two runs are the same: every setting that can change a result changes the key, and nothing else does."""

from __future__ import annotations

import json
import math
import platform
import re
from importlib.metadata import version

import pytest
import torch
from composing import CPU, asked, compose, key

from sparsity.options.components import components
from sparsity.options.settings import Settings, read
from sparsity.stages.key import inputs, run_key

MATTERS = [
    "model.seed=1",
    "dataset=wikitext2",
    "method=magnitude",
    "method.scope=row",
    "pattern=2of4",
    "sparsity=0.6",
    "seed=1",
    "dtype=bfloat16",
    "layer_error=true",
    "save=true",
    "packed=true",
    "scope.roles=[mlp]",
    "scope.last_blocks=1",
    "scope.skip=[down_proj]",
    "calibration.seed=2",
    "calibration.num_sequences=8",
    "calibration.seqlen=64",
    "calibration.batch_size=2",  # rounding
    "calibration.propagate=dense",
    "evaluation=[]",
    "evaluation.perplexity.windows=3",
    "evaluation.perplexity.seqlen=128",
    "evaluation.perplexity.batch_size=2",
]
MATTERS_NOT = [
    "name=other",
    "plan=true",
    "rerun=true",
    "allow=[other]",
    "device=cpu",
    "journal=false",
    "cache.limit_gib=1",
    "cache.statistics=false",
    "objective=evaluation.divergence.kl",
]


@pytest.mark.parametrize("override", MATTERS)
def test_another_run_has_another_key(override):
    assert key(override) != key()


def test_no_two_runs_share_a_key():
    assert len({key(override) for override in MATTERS}) == len(MATTERS)


@pytest.mark.parametrize("override", MATTERS_NOT)
def test_the_same_run_has_the_same_key(override):
    assert key(override) == key()


def test_every_setting_is_known_to_matter_or_not():
    read_through = {"sparsity", "seed"}  # by the components: both are in the table
    tested = {re.split(r"[.=]", override)[0] for override in (*MATTERS, *MATTERS_NOT)}
    assert tested >= {*Settings.model_fields} | read_through


def test_a_seed_that_nobody_reads_does_not_matter():
    assert key("seed=1", "calibration.seed=0") == key()


def test_who_watches_does_not_matter_and_the_kind_of_device_does():
    config = compose("model=tiny")
    settings, parts = read(config), components(config)
    watched = parts | {"tracker": {"_target_": "sparsity.tracking.Another"}}
    assert inputs(settings, watched, [], CPU) == inputs(settings, parts, [], CPU)
    keys = [run_key(inputs(settings, parts, [], torch.device(name))) for name in ("cpu", "cuda:0", "cuda:1")]
    assert keys[0] != keys[1] == keys[2]


def test_the_inputs_are_json_as_they_are():
    its = inputs(
        read(compose("model=tiny")), components(compose("model=tiny")) | {"method": {"rho": math.inf}}, [], CPU
    )
    assert json.loads(json.dumps(its, allow_nan=False)) == its


def test_a_file_that_changed_is_another_run(tmp_path):
    files = {name: tmp_path / f"{name}.txt" for name in ("calibration", "evaluation")}
    words = ["dataset=text", *(f"dataset.{name}={file}" for name, file in files.items())]
    for file in files.values():
        file.write_text("one")
    keys = [key(*words)]
    for file in files.values():
        file.write_text("another")
        keys.append(key(*words))
    assert len({*keys}) == 3


def test_code_that_changed_is_another_run():
    its = asked()
    for name in its["code"]:
        assert run_key(its) != run_key(its | {"code": its["code"] | {name: "0123456789abcdef"}})


@pytest.mark.parametrize("library", ["torch", "transformers", "numpy", "python"])
def test_another_version_is_another_run(library):
    its = asked()
    assert its["versions"][library] == (platform.python_version() if library == "python" else version(library))
    assert run_key(its) != run_key(its | {"versions": its["versions"] | {library: "0.1"}})


def test_a_users_class_counts_with_its_code(tmp_path, monkeypatch):
    """Wherever it stands: as a method, or as what another method works on."""
    monkeypatch.syspath_prepend(tmp_path)
    settings, parts, keys = read(compose("model=tiny")), components(compose("model=tiny")), set()
    for name, number in {"a_users_method": 1, "a_users_other_method": 2}.items():
        (tmp_path / f"{name}.py").write_text(f"class Mine:\n    number = {number}\n")
        mine = {"_target_": f"{name}.Mine"}
        for method in (mine, {"_target_": "sparsity.methods.DSnoT", "base": mine}):
            its = inputs(settings, parts | {"method": method}, [], CPU)
            keys.add(its["code"][f"{name}.py"])
    assert len(keys) == 2

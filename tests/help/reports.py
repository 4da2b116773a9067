"""Folders of finished runs as a run would have left them, for the tests of the report."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsity.report.gather import Group, gather
from sparsity.report.read import read

DENSE = [3.0 + 0.1 * (i % 5) for i in range(24)]  # NLL of the windows
TFIDF = {"_target_": "sparsity.methods.TfIdf", "idf_exp": 0.5, "num_topics": None, "seed": 0}
METHODS: Mapping[str, dict[str, Any]] = {
    "dense": {"_target_": "sparsity.methods.Dense"},
    "wanda": {"_target_": "sparsity.methods.Wanda", "scope": "row"},
    "magnitude": {"_target_": "sparsity.methods.Magnitude", "scope": "layer"},
    "hybrid": {"_target_": "sparsity.methods.Route", "routes": {"mlp": {"_target_": "x.NeuronRank", "tfidf": TFIDF}}},
}


def save(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def windows(worse: float, noise: float = 0.01, draw: int = 0) -> list[float]:
    """The pruned model's NLL in each window: the dense one's, worse by `worse` and some noise."""
    source = random.Random(draw)
    return [dense + worse + source.gauss(0, noise) for dense in DENSE]


def finished(
    folder: Path,
    perplexity: float = 70.0,
    *,
    method: str = "wanda",
    corrector: str = "none",
    sparsity: float = 0.5,
    seed: int = 0,
    words: Sequence[str] = (),
    nll: Sequence[float] | None = None,
    config: Mapping[str, Any] | None = None,
    **result: Any,
) -> Path:
    """A run's folder. `config` and `result` replace what is there by default; a value of None takes a key of the result away."""
    folder.mkdir(parents=True, exist_ok=True)
    typed = [f"method={method}", f"corrector={corrector}", f"sparsity={sparsity}", f"seed={seed}", *words]
    routes = {"method@method.routes.mlp": "neuronrank_tfidf"} if method == "hybrid" else {}
    content = {
        "name": "study",
        "overrides": typed,
        "command": f"python run.py {' '.join(typed)}",
        "choices": {"method": method, "corrector": corrector, "pattern": "unstructured", **routes},
        "model": {"name": "SmallLM", "sha256": "m" * 64, "dtype": "float32"},
        "dataset": {"name": "text", "evaluation": "/a/test.raw", "evaluation_sha256": "e" * 64},
        "perplexity": {"dense": 30.0, "pruned": perplexity},
        "evaluation": {"perplexity": {"dense": 30.0, "pruned": perplexity, "seqlen": 512, "windows": 24}},
        "sparsity": {"asked": sparsity, "found": sparsity},
        "layers": {"error_before_mean": 0.2, "relative_error_mean": 0.1},
        "seconds": {"load": 1.0, "calibrate": 30.4, "prune": 5.2, "evaluate": 9.0},
        "peak_memory_bytes": 2**30,
        **result,
    }
    (folder / "result.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    environment = {
        "time": f"2026-11-22T0{seed % 10}:00:00+00:00",
        "hardware": {"device_name": "cpu", "threads": 1},
        "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    settings = {
        "name": "study",
        "tfidf": {**TFIDF, "seed": seed},
        "method": METHODS[method],
        "corrector": {"_target_": f"x.{corrector}"},
        "pattern": {"_target_": "sparsity.patterns.Unstructured", "sparsity": sparsity},
        "calibration": {"num_sequences": 16, "seed": seed},
        "sparsity": sparsity,
        "seed": seed,
        "save": False,
        **(config or {}),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    names = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    layers = [
        {
            "block": b,
            "name": f"model.layers.{b}.{name}",
            "sparsity_found": sparsity,
            "relative_error": 0.1 * (b + 1) + 0.01 * n,
        }
        for b in range(3)
        for n, name in enumerate(names)
    ]
    save(folder, "layers", layers)
    pruned = windows(0.5) if nll is None else nll
    save(folder, "windows", [
        {"window": i, "tokens": 511, "nll_dense": dense, "nll_pruned": after}
        for i, (dense, after) in enumerate(zip(DENSE, pruned, strict=False))
    ])  # fmt: skip
    return folder


def found(folder: Path, evaluator: str, summary: Mapping[str, Any]) -> None:
    """Adds what an evaluator found to the result."""
    result = json.loads((folder / "result.json").read_text())
    result.setdefault("evaluation", {})[evaluator] = summary
    (folder / "result.json").write_text(json.dumps(result))


def answered(folder: Path, right: Sequence[int], task: str = "quiz") -> None:
    """Adds documents.csv, whether the pruned model answers each document rightly, and what lm-eval makes of it."""
    found(folder, "lm_eval", {"dense": {task: {"acc": 1.0}}, "pruned": {task: {"acc": sum(right) / len(right)}}})
    rows = [
        {"task": task, "document": i, "doc_hash": f"h{i}", "acc_dense": 1, "acc_pruned": answer}
        for i, answer in enumerate(right)
    ]
    save(folder, "documents", rows)


def diverged(folder: Path, kl: Sequence[float], tokens: int = 511) -> None:
    """Adds divergence.csv, nats per token in each window, and their mean."""
    found(folder, "divergence", {"kl": sum(kl) / len(kl), "agreement": 0.5})
    rows = [{"window": i, "tokens": tokens, "kl": value, "agreement": 0.5} for i, value in enumerate(kl)]
    save(folder, "divergence", rows)


def gathered(*folders: Path) -> list[Group]:
    runs, problems = read(folders)
    assert problems == []
    return gather(runs)

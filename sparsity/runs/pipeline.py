"""One run, from a composed configuration to a folder with a result.

Mistakes surface in the order of their cost: options, files, the finished run that makes this one needless, the architecture,
the composition (`plan`), the text; and only then anything is computed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..core import Site, UserError
from ..datasets import sample, tokenise
from ..engine import LayerReport, Plan, plan, prune, select
from ..models import Decoder, Loaded
from ..stream import BlockStream
from . import checkpoint, console
from .build import Parts, build, check_targets, components
from .environment import environment, peak_memory
from .evaluate import compare, references
from .key import run_key
from .preview import preview
from .settings import Settings, read, resolve_device
from .store import RESULT, RunStore, find_finished

SCHEMA = 1


@dataclass(frozen=True)
class Place:
    """Where a run's files go, the folder under which finished runs are looked up, and what was chosen in the groups."""

    folder: Path
    finished: Path
    choices: Mapping[str, str]


@dataclass
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("load", "calibrate", "prune", "evaluate"), 0.0)
    )

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


def run(config: DictConfig, place: Place) -> dict[str, Any]:
    """Do what the configuration says, or say that it was done. Returns the content of result.json, {} for plan=true."""
    settings = read(config)
    options = components(config)
    classes = check_targets(options, settings.allow)
    device = resolve_device(settings.device)
    parts = build(options)
    if parts.pattern.sparsity != settings.sparsity:
        console.say(f"{parts.pattern} asks for {parts.pattern.sparsity:.2%}: sparsity={settings.sparsity} is not read")
    parts.model.check()
    parts.dataset.check()
    key = run_key(settings, options, [*parts.model.files(), *parts.dataset.files()], device, classes)
    if settings.plan:
        _, decoder = _load(settings, parts)
        preview(settings, parts, decoder, _plan(settings, parts, decoder))
        return {}
    store = RunStore(place.folder)
    done = None if settings.rerun else find_finished(place.finished, key)
    if done is not None:
        console.say("finished earlier, not repeated (rerun=true repeats it)")
        result, folder = RunStore(done).result or {}, done
    else:
        _claim(store, key, settings.rerun)
        resolved = OmegaConf.to_container(config, resolve=True)
        assert isinstance(resolved, dict)
        result, folder = (
            _run(settings, parts, device, store, place, key, {str(k): v for k, v in resolved.items()}),
            place.folder,
        )
    console.table(result, folder)
    return result


def _run(
    settings: Settings,
    parts: Parts,
    device: torch.device,
    store: RunStore,
    place: Place,
    key: str,
    config: Mapping[str, Any],
) -> dict[str, Any]:
    torch.set_float32_matmul_precision("highest")  # statistics and solves without TF32
    clock = Clock()
    with clock("load"), console.busy("loading"):
        loaded, decoder = _load(settings, parts)
        the_plan = _plan(settings, parts, decoder)
        sites = list(the_plan.needs)
        if settings.save:
            store.check_space(checkpoint.size(loaded))
        ids_BT = _calibration_ids(settings, parts, loaded) if the_plan.last >= 0 else None
        ids_N = tokenise(parts.dataset.evaluation_text(), loaded.tokenizer) if parts.evaluation else torch.empty(0)
        for evaluator in parts.evaluation.values():
            evaluator.check(ids_N)
    for name, shape in decoder.unpruned.items():
        console.say(f"not pruned: {name} {shape} is no linear layer's weight")

    where = environment(device)
    store.text("config.yaml", f"# {where['command']}\n{yaml.safe_dump(dict(config), sort_keys=False)}")
    store.json("environment.json", where)
    parts.tracker.start(config)

    with clock("evaluate"), console.busy("evaluating the dense model"):
        dense = references(parts.evaluation, decoder, ids_N, device)
    with clock("prune"):
        size, propagate = settings.calibration.batch_size, settings.calibration.propagate
        stream = BlockStream(decoder, ids_BT, batch_size=size, propagate=propagate, device=device)
        reports = prune(stream, the_plan)
        rows, digest = [], hashlib.sha256()
        for report in console.progress(reports, len(sites), len(decoder.blocks)):
            rows.append(_row(report, place.choices["method"]))
            digest.update(np.packbits(report.keep_OI.cpu().numpy()).tobytes())
            parts.tracker.layer(rows[-1])
            if len(rows) == len(sites) or sites[len(rows)].block != report.site.block:
                store.csv("layers.csv", rows)
    clock.seconds["calibrate"], clock.seconds["prune"] = stream.seconds, clock.seconds["prune"] - stream.seconds
    with clock("evaluate"), console.busy("evaluating the pruned model"):
        measured = compare(parts.evaluation, decoder, ids_N, device, dense)
    for found in measured.values():
        store.csv(f"{found.table}.csv", found.rows)

    summaries = {name: dict(found.summary) for name, found in measured.items()}
    result = {
        "schema": SCHEMA,
        "run_key": key,
        "name": settings.name,
        "command": where["command"],
        "choices": dict(place.choices),
        "model": {"name": loaded.name, **loaded.origin, "dtype": str(loaded.model.dtype).removeprefix("torch.")},
        "dataset": parts.dataset.describe(),
        "calibration": settings.calibration.model_dump() | {"tokens": 0 if ids_BT is None else ids_BT.numel()},
        "perplexity": {which: summaries.get("perplexity", {}).get(which) for which in ("dense", "pruned")},
        "evaluation": summaries,
        "sparsity": _recount(decoder, sites, rows),
        "layers": {"pruned": len(rows), "all": len(decoder.sites), "relative_error_mean": _mean_error(rows)},
        "seconds": clock.seconds,
        "peak_memory_bytes": peak_memory(),
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "mask_sha256": digest.hexdigest(),
    }
    if settings.save:
        checkpoint.save(store, loaded, result, config)
    parts.tracker.finish(result)
    store.json(RESULT, result)
    return result


def _load(settings: Settings, parts: Parts) -> tuple[Loaded, Decoder]:
    loaded = parts.model.load(settings.torch_dtype)
    return loaded, Decoder(loaded.model)


def _plan(settings: Settings, parts: Parts, decoder: Decoder) -> Plan:
    scope = settings.scope
    sites = select(decoder.sites, scope.roles, scope.last_blocks, scope.skip)
    return plan(decoder, parts.method, parts.pattern, parts.corrector, sites, settings.layer_error)


def _claim(store: RunStore, key: str, rerun: bool) -> None:
    """The folder is ours to write: new, or left unfinished, or to be repeated."""
    store.check_writable()
    result = store.result
    if result is not None and not rerun:
        raise UserError(
            f"{store.folder} holds another finished run (key {result.get('run_key')}, this one's is {key}). "
            f"Choose another hydra.run.dir, or rerun=true to replace it"
        )
    store.unfinish()


def _calibration_ids(settings: Settings, parts: Parts, loaded: Loaded) -> Tensor:
    calibration = settings.calibration
    ids_N = tokenise(parts.dataset.calibration_text(), loaded.tokenizer)
    generator = torch.Generator().manual_seed(calibration.seed)
    return sample(ids_N, calibration.num_sequences, calibration.seqlen, generator)


def _row(report: LayerReport, method: str) -> dict[str, Any]:
    return {
        "block": report.site.block,
        "name": report.site.name,
        "role": report.site.role,
        "method": method,
        "rows": report.shape[0],
        "columns": report.shape[1],
        "sparsity_asked": report.asked,
        "sparsity_found": report.found,
        "relative_error": report.error,
        "seconds": round(report.seconds, 6),
        **report.facts,
    }


def _recount(decoder: Decoder, sites: Sequence[Site], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Asked, and found by counting zeros in the model itself: what the masks promised is not taken on trust."""
    weights = sum(row["rows"] * row["columns"] for row in rows)
    zeros = sum(int((decoder.layer(site).weight_OI == 0).sum()) for site in sites)
    asked = sum(row["sparsity_asked"] * row["rows"] * row["columns"] for row in rows) / weights
    return {"asked": asked, "found": zeros / weights, "weights": weights, "zeros": zeros, "layers": len(rows)}


def _mean_error(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Over the layers whose error is known; None where it is of none."""
    known = [row["relative_error"] for row in rows if row["relative_error"] is not None]
    finite = [error for error in known if math.isfinite(error)]
    return sum(finite) / len(finite) if finite else None

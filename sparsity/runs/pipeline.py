"""One run, from a composed configuration to a folder with a result.

Mistakes surface in the order of their cost: options, files, the finished run that makes this one needless, the model's architecture,
the composition (`plan`), the text; and only then anything is computed.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..core import Evaluator, Measured, Site, UserError
from ..datasets import sample, tokenise
from ..engine import LayerReport, Plan, plan, prune, select
from ..models import Decoder, Loaded
from ..stream import BlockStream
from . import checkpoint, console
from .build import Parts, build, check_targets, components
from .cache import remembered
from .environment import environment, peak_memory
from .key import run_key
from .settings import Settings, read, resolve_device
from .store import RESULT, RunStore, find_finished

SCHEMA = 1


@dataclass(frozen=True)
class Place:
    """Where a run's files go: its folder, and the folder under which finished runs are looked up."""

    folder: Path
    finished: Path
    choices: Mapping[str, str]  # the options chosen in the groups, for people


@dataclass
class Clock:
    """Seconds per stage."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("load", "calibrate", "prune", "evaluate"), 0.0))

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


def run(config: DictConfig, place: Place) -> dict[str, Any]:
    """Do what the configuration says, or say that it was done. Returns the content of result.json ({} for plan=true)."""
    settings = read(config)
    options = components(config)
    classes = check_targets(options, settings.allow)
    device = resolve_device(settings.device)
    parts = build(options)
    parts.model.check()
    parts.dataset.check()
    store = RunStore(place.folder)
    key = run_key(settings, options, device, classes)

    if not (settings.plan or settings.rerun):
        done = find_finished(place.finished, key)
        if done is not None:
            console.say("finished earlier, not repeated (rerun=true repeats it)")
            store.drop_if_empty()
            return _show(RunStore(done).result or {}, done)
    if settings.plan:
        store.drop_if_empty()
    else:
        _claim(store, key, settings.rerun)
    try:
        return _run(settings, parts, device, store, place, key, config)
    finally:
        store.drop_if_empty()


def _run(
    settings: Settings, parts: Parts, device: torch.device, store: RunStore, place: Place, key: str, config: DictConfig
) -> dict[str, Any]:
    torch.set_float32_matmul_precision("highest")  # statistics and solves without TF32
    clock = Clock()
    with clock("load"):
        loaded = parts.model.load(settings.torch_dtype)
        decoder = Decoder(loaded.model)
    scope = settings.scope
    sites = select(decoder.sites, scope.roles, scope.last_blocks, scope.skip)
    the_plan = plan(decoder, sites, parts.method, parts.pattern, parts.corrector, settings.layer_error)
    if settings.plan:
        asked = {site.name: parts.method.asked(site, parts.pattern) for site in sites}
        text = {"dataset": place.choices["dataset"], **settings.calibration.model_dump()}
        console.describe_plan(decoder, the_plan, asked, text, _memory(decoder, settings, the_plan))
        return {}
    if settings.save:
        store.check_space(checkpoint.size(loaded))

    with clock("load"):
        ids_BT = _calibration_ids(settings, parts, loaded) if the_plan.last >= 0 else None
        ids_N = tokenise(parts.dataset.evaluation_text(), loaded.tokenizer) if parts.evaluation else torch.empty(0)
    for evaluator in parts.evaluation.values():
        evaluator.check(ids_N)
    for name, shape in decoder.unpruned.items():
        console.say(f"not pruned: {name} {shape} is no linear layer's weight")

    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    where = environment(device)
    store.text("config.yaml", f"# {where['command']}\n{OmegaConf.to_yaml(OmegaConf.create(resolved))}")
    store.json("environment.json", where)
    parts.tracker.start(resolved)

    with clock("evaluate"):
        references = _references(parts.evaluation, decoder, ids_N, device)
    with clock("prune"):
        calibration = settings.calibration
        stream = BlockStream(
            decoder, ids_BT, batch_size=calibration.batch_size, propagate=calibration.propagate, device=device
        )
        reports = prune(stream, the_plan, parts.method, parts.pattern, parts.corrector, settings.layer_error)
        rows, masks = [], hashlib.sha256()
        for report in console.progress(reports, len(sites), len(decoder.blocks)):
            rows.append(_row(report, place.choices["method"]))
            masks.update(np.packbits(report.keep_OI.cpu().numpy()))
            parts.tracker.layer(rows[-1])
            if len(rows) == len(sites) or sites[len(rows)].block != report.site.block:
                store.csv("layers.csv", rows)
    clock.seconds["calibrate"], clock.seconds["prune"] = stream.seconds, clock.seconds["prune"] - stream.seconds
    with clock("evaluate"):
        measured = _measure(parts.evaluation, decoder, ids_N, device, references)
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
        "layers": _layers(rows),
        "seconds": clock.seconds,
        "peak_memory_bytes": peak_memory(),
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "mask_sha256": masks.hexdigest(),
    }
    if settings.save:
        checkpoint.save(store, loaded, result, resolved)
    parts.tracker.finish(result)
    store.json(RESULT, result)
    return _show(result, store.folder)


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


def _references(
    evaluators: Mapping[str, Evaluator], decoder: Decoder, ids_N: Tensor, device: torch.device
) -> dict[str, Mapping[str, Tensor]]:
    """What the dense model answers, remembered between runs by all that can change it."""
    if not evaluators:
        return {}
    known = {
        "model": decoder.fingerprint(),
        "text": hashlib.sha256(ids_N.numpy()).hexdigest(),
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    references = {}
    for name, evaluator in evaluators.items():

        def compute(evaluator: Evaluator = evaluator) -> Mapping[str, Tensor]:
            with decoder.on(device):
                return evaluator.reference(decoder, ids_N)

        references[name] = remembered("dense", known | {"evaluator": repr(evaluator)}, compute)
    return references


def _measure(
    evaluators: Mapping[str, Evaluator],
    decoder: Decoder,
    ids_N: Tensor,
    device: torch.device,
    references: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Measured]:
    with decoder.on(device):
        return {name: e.compare(decoder, ids_N, references[name]) for name, e in evaluators.items()}


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


def _recount(decoder: Decoder, sites: tuple[Site, ...], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Asked, and found by counting zeros in the model itself: what the masks promised is not taken on trust."""
    weights = sum(row["rows"] * row["columns"] for row in rows)
    zeros = sum(int((decoder.layer(site).weight_OI == 0).sum()) for site in sites)
    asked = sum(row["sparsity_asked"] * row["rows"] * row["columns"] for row in rows) / weights
    return {"asked": asked, "found": zeros / weights, "weights": weights, "zeros": zeros, "layers": len(rows)}


def _layers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [row["relative_error"] for row in rows if row["relative_error"] is not None]
    known = [error for error in errors if math.isfinite(error)]
    return {"count": len(rows), "relative_error_mean": sum(known) / len(known) if known else None}


def _memory(decoder: Decoder, settings: Settings, the_plan: Plan) -> dict[str, int]:
    """Bytes that a run will hold, by what holds them. Layers that turn out to see the same tensors share their statistics."""
    parameters = list(decoder.model.parameters())
    element = parameters[0].element_size()
    tokens = settings.calibration.num_sequences * settings.calibration.seqlen if the_plan.last >= 0 else 0
    hidden = decoder.model.config.get_text_config(decoder=True).hidden_size
    statistics = Counter[int]()
    for site, taps in the_plan.needs.items():
        x_BTI = torch.empty(1, 1, decoder.layer(site).weight_OI.shape[1], dtype=parameters[0].dtype, device="meta")
        statistics[site.block] += sum(_bytes(tap.statistic.zero(x_BTI)) for tap in taps)
    return {
        "weights": sum(p.numel() * p.element_size() for p in parameters),
        "one block": max(sum(p.numel() for p in block.module.parameters()) for block in decoder.blocks) * element,
        "a block's statistics (at most)": max(statistics.values()),
        "hidden states": tokens * hidden * element,
    }


def _bytes(state: Any) -> int:
    parts = state if isinstance(state, tuple) else (state,)
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))


def _show(result: dict[str, Any], folder: Path) -> dict[str, Any]:
    console.table(result, folder)
    return result

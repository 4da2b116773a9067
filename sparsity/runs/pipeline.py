"""One run, from a composed configuration to a folder with a result.

Mistakes surface in the order of their cost: options, files, the finished run that makes this one needless, the architecture,
the composition (`plan`), the text; and only then anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ..core import Site, UserError
from ..datasets.overlap import SPAN, shared_tokens
from ..engine import Plan, plan, select
from ..linalg import nonzeros
from ..models import Decoder
from ..options.components import Parts, build, check_streams, check_targets, components, targets
from ..options.settings import Settings, read, resolve_device
from ..processes import ALONE, Processes
from ..record import console
from ..record.environment import environment, peak_memory, resident
from ..record.folders import stamps
from ..record.groups import PRUNING, SHARED
from ..record.store import ENVIRONMENT, RESULT, RunStore, find_finished, find_interrupted
from ..stages import drawing as sequences
from ..stages import saving as checkpoint
from ..stages.allocating import allocate
from ..stages.drawing import calibration_ids
from ..stages.evaluating import compare, references, referred
from ..stages.job import Clock, Job, Place
from ..stages.journal import drop
from ..stages.key import run_key
from ..stages.loading import Dense, Held
from ..stages.pruning import assist, prune
from ..stages.recovering import recover, taught
from ..stages.resources import Needed, needed, rate
from ..tracking import About, Outcome, Watch
from ..tracking.told import run_id, run_name, summary, tables
from . import together
from .preview import preview

SCHEMA = 1
CALL = "prune"  # what the first process says to the others when there is something to do
BEFORE = resident()  # what the program holds without a model


def run(
    config: DictConfig, place: Place, held: Held | None = None, processes: Processes = ALONE
) -> tuple[dict[str, Any], Path]:
    """Do what the configuration says, or say that it was done. `held`: the model of a sweep's last point.

    `processes`: the first one does all but its share of the text and of the layers' rows; the others help, and return {}.
    Returns the content of result.json, {} for plan=true, and the folder in which it stands.
    """
    job = prepare(config, place, processes)
    if processes.rank:
        if processes.words("")[0] == CALL:
            _assist(job)
        return {}, place.folder
    if job.settings.plan:
        processes.words("")
        decoder = _dense(job, held).decoder
        the_plan = _plan(job, decoder)
        preview(job, decoder, the_plan, _told(job, decoder, _needed(job, decoder, the_plan)))
        return {}, place.folder
    done = None if job.settings.rerun else find_finished(place.finished, job.key)
    if done is not None:
        processes.words("")
        console.say("finished earlier, not repeated (rerun=true repeats it)")
        result = RunStore(done).result or {}
    else:
        with _claimed(job) as job, Watch(job.parts.tracker) as watch, _scratch(job) as scratch:
            processes.words(CALL)
            result, done = _run(job, watch, held, scratch), job.place.folder
    console.table(result, done)
    return result, done


def prepare(config: DictConfig, place: Place, processes: Processes = ALONE) -> Job:
    """Every mistake that can be seen in milliseconds is raised here."""
    settings = read(config)
    options = components(config)
    classes = check_targets(options, settings.allow)
    device = resolve_device(settings.device, together.local())
    parts = build(options)
    if parts.pattern.sparsity != settings.sparsity:
        console.say(f"{parts.pattern} asks for {parts.pattern.sparsity:.2%}: sparsity={settings.sparsity} is not read")
    for group in SHARED:
        asked = [word for word in place.overrides if word.lstrip("+~").startswith(group)]
        if asked and not any(group in node for _, node in targets("", options)):
            console.say(f"method={place.choices['method']} does not read {group}: {' '.join(asked)} changes nothing")
    if settings.packed and not settings.save:
        raise UserError("packed=true packs the checkpoint that save=true writes: expected both. Add save=true")
    check_streams(parts, settings, processes.size)
    if settings.calibration.held_out and settings.layer_error is False:
        raise UserError(
            f"calibration.held_out={settings.calibration.held_out} is text to take the layers' errors on, and layer_error=false "
            f"asks for none. Leave one of them out"
        )
    parts.model.check()
    parts.dataset.check()
    parts.reference.check()
    text = settings.calibration
    sequences.check(text.written, text.seqlen, text.prompt)
    for tuned in (parts.refine, parts.recover):
        tuned.check(text.sequences, text.batch_size)
    if processes.size > 1:
        _check_shared(settings, parts, device, processes.size)
    files = [*parts.model.files(), *parts.dataset.files(), *parts.reference.files()]
    files += (file for evaluator in parts.evaluation.values() for file in evaluator.files())
    key = run_key(settings, options, files, device, classes)
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    return Job(settings, parts, device, key, {str(name): value for name, value in resolved.items()}, place, processes)


def _check_shared(settings: Settings, parts: Parts, device: torch.device, processes: int) -> None:
    """Raise `UserError` for what several processes cannot do together, and say where some would have nothing to do."""
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"device={device.type} under torchrun: expected cuda or cpu. Add device=cpu, or leave out torchrun"
        )
    if parts.refine.target is not None:
        raise UserError(
            f"refine tunes a block step by step, on batches of the whole text: expected one process, got {processes}. Start "
            f"python run.py without torchrun, or use refine=none"
        )
    calibration = settings.calibration
    batches = -(-calibration.sequences // calibration.batch_size)
    if batches < processes:
        console.say(
            f"{batches} batches of calibration text for {processes} processes: some have none. calibration.batch_size="
            f"{max(calibration.sequences // processes, 1)} gives each a part"
        )


def _assist(job: Job) -> None:
    """What the other processes do of a run: their share of the walk, on a model of their own. They leave no file."""
    torch.set_float32_matmul_precision("highest")
    dense = _dense(job, None)
    the_plan = _plan(job, dense.decoder)
    drawn = calibration_ids(job, dense, the_plan)
    the_plan = allocate(job, dense, the_plan, drawn.ids_BT)
    assist(job, dense, the_plan, drawn)


def _run(job: Job, watch: Watch, held: Held | None, scratch: Path | None) -> dict[str, Any]:
    """`scratch`: where the blocks that have changed are kept, if they do not stay in memory."""
    torch.set_float32_matmul_precision("highest")  # statistics and solves without TF32
    settings, parts, store, clock = job.settings, job.parts, job.store, Clock()
    with clock("load"), console.busy("loading"):
        dense = _dense(job, held)
        loaded, decoder = dense.loaded, dense.decoder
        if loaded.files and scratch:
            loaded.files.keep_in(scratch)
        the_plan = _plan(job, decoder)
        if settings.save or scratch:
            store.check_space(checkpoint.size(loaded))
        drawn = calibration_ids(job, dense, the_plan)
        ids_BT = drawn.ids_BT
        asked = any(evaluator.reads_text for evaluator in parts.evaluation.values())
        ids_N = dense.ids(parts.dataset.evaluation_text()) if asked else torch.empty(0)
        for evaluator in parts.evaluation.values():
            evaluator.check(ids_N)
    need = _needed(job, decoder, the_plan, ids_N.numel())
    for line in _told(job, decoder, need):
        console.say(line)
    for name, shape in decoder.unpruned.items():
        console.say(f"not pruned: {name} {shape} is no linear layer's weight")
    leakage = _leakage(ids_BT, ids_N) if asked and ids_BT is not None else None

    where = environment(job.device, job.processes.size)
    store.text("config.yaml", f"# {where['command']}\n{yaml.safe_dump(dict(job.config), sort_keys=False)}")
    store.json(ENVIRONMENT, where | {"run_key": job.key})
    watch.start(_about(job))

    with clock("evaluate"), console.busy("evaluating the dense model"):
        other = referred(parts.reference, loaded, settings.torch_dtype)
        known = references(parts.evaluation, Dense(other) if other else dense, ids_N, job.device, job.cache)
        reference = {"name": other.name, **other.origin} if other else None
        del other  # the memory of another model is needed
    with clock("allocate"), console.busy("measuring what layers can give up"):
        the_plan = allocate(job, dense, the_plan, ids_BT)
    with clock("recover"):
        known_dense = taught(job, decoder, the_plan, ids_BT)
    sites = the_plan.sites
    rows, refined, keep_sha256, resumed, forwards, each_peak = prune(job, dense, the_plan, drawn, clock, watch)
    with clock("recover"), console.busy("recovering"):
        recovery = recover(job, decoder, the_plan, ids_BT, known_dense)
    with clock("evaluate"), console.busy("evaluating the pruned model"):
        measured = compare(parts.evaluation, decoder, ids_N, job.device, known)
    for found in measured.values():
        store.csv(f"{found.table}.csv", found.rows)

    summaries = {name: dict(found.summary) for name, found in measured.items()}
    result = {
        "schema": SCHEMA,
        "run_key": job.key,
        "name": settings.name,
        "command": where["command"],
        "overrides": list(job.place.overrides),
        "choices": dict(job.place.choices),
        "composition": {part: repr(getattr(parts, part)) for part in PRUNING},
        "model": {"name": loaded.name, **loaded.origin, "dtype": str(loaded.model.dtype).removeprefix("torch.")},
        "reference": reference,
        "dataset": parts.dataset.describe(),
        "calibration": settings.calibration.model_dump()
        | {"tokens": 0 if ids_BT is None else ids_BT.numel(), "block_forwards": forwards},
        "leakage": leakage,
        "perplexity": {which: summaries.get("perplexity", {}).get(which) for which in ("dense", "pruned")},
        "evaluation": summaries,
        "sparsity": _recount(decoder, sites, rows),
        "layers": {"pruned": len(rows), "all": len({*decoder.sites, *sites}), **_layer_means(rows)},
        "blocks": {"refined": len(refined), **_means(refined, refined[0] if refined else ())},
        "recovery": recovery,
        "seconds": clock.seconds,
        "resumed": resumed,
        "peak_memory_bytes": peak_memory(),
        "needed": {"memory_bytes": BEFORE + need.memory, "disk_bytes": sum(need.disk.values())},
        "processes": [{"peak_memory_bytes": peak} for peak in each_peak],
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(job.device) if job.device.type == "cuda" else None,
        "mask_sha256": keep_sha256,
    }
    if settings.save:
        checkpoint.save(store, loaded, decoder, sites, result, job.config, job.settings.packed)
        result["peak_memory_bytes"] = peak_memory()  # with what that took
    store.json(RESULT, result)
    drop(store.folder)
    watch.finish(lambda: _outcome(job, result))
    return result


def _about(job: Job) -> About:
    """What a tracker is told of a run that starts."""
    place, settings = job.place, job.settings
    return About(
        folder=place.folder,
        study=settings.name,
        name=run_name(place.choices, job.parts.pattern.sparsity, settings.seed, place.swept),
        id=run_id(place.folder, job.key),
        group=place.sweep.name if place.sweep else None,
        job_type="sweep" if place.sweep else "run",
        config={**job.config, "choices": dict(place.choices), "run_key": job.key, "folder": str(place.folder)},
    )


def _outcome(job: Job, result: Mapping[str, Any]) -> Outcome:
    """What a tracker is told of a run that finished."""
    model = job.place.folder / checkpoint.FOLDER
    return Outcome(summary(result), tables(job.place.folder), model if job.settings.save else None)


def _dense(job: Job, held: Held | None) -> Dense:
    source, dtype = job.parts.model, job.settings.torch_dtype
    if held is None:
        return Dense(source.load(dtype))
    return held.dense((repr(source), dtype, tuple(stamps(source.files()))), lambda: source.load(dtype))


def _plan(job: Job, decoder: Decoder) -> Plan:
    scope, parts = job.settings.scope, job.parts
    sites = select(decoder.sites, scope.roles, scope.last_blocks, scope.skip)
    parts.allocation.check(parts.pattern)
    return plan(
        decoder,
        parts.method,
        parts.pattern,
        parts.corrector,
        sites,
        job.settings.errors,
        scope.lm_head,
        parts.refine,
    )


def _needed(job: Job, decoder: Decoder, the_plan: Plan, tokens: int = 0) -> Needed:
    return needed(
        job.settings, job.parts, decoder, the_plan, tokens, job.parts.model.stream, job.place.sweep is not None
    )


def _told(job: Job, decoder: Decoder, need: Needed) -> Iterator[str]:
    return need.told(BEFORE, rate(job.device, decoder.embedding_VE.dtype))


@contextmanager
def _claimed(job: Job) -> Iterator[Job]:
    """The job with a folder that is its own to write: that of the same run, interrupted, or the one that it was given."""
    with ExitStack() as stack:
        if not job.settings.rerun:
            for folder in find_interrupted(job.place.finished, job.key):
                if stack.enter_context(RunStore(folder).alone()):
                    RunStore(folder).tidy()
                    yield replace(job, place=replace(job.place, folder=folder))
                    return
        job.store.check_writable()
        if not stack.enter_context(job.store.alone()):
            raise UserError(
                f"{job.store.folder} is being written by another process: expected a folder of its own for each run"
            )
        result = job.store.result
        if result is not None and not job.settings.rerun:
            raise UserError(
                f"{job.store.folder} holds another finished run (key {result.get('run_key')}, this one's is {job.key}). "
                f"Choose another hydra.run.dir, or rerun=true to replace it"
            )
        job.store.unfinish()
        yield job


@contextmanager
def _scratch(job: Job) -> Iterator[Path | None]:
    with job.store.scratch() if job.parts.model.stream else nullcontext() as folder:
        yield folder


def _leakage(ids_BT: Tensor, ids_N: Tensor) -> dict[str, float]:
    """How much of the calibration text is evaluated on: tokens in spans that the evaluation text holds too."""
    shared = shared_tokens(ids_BT, ids_N)
    if shared:
        console.say(
            f"leakage: {shared:,} of {ids_BT.numel():,} calibration tokens stand in spans of {SPAN} tokens that the evaluation "
            f"text holds too, so the perplexity flatters what was calibrated"
        )
    return {"span": SPAN, "tokens": ids_BT.numel(), "shared": shared, "share": shared / ids_BT.numel()}


def _recount(decoder: Decoder, sites: Sequence[Site], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Asked, and found by counting zeros in the model itself: what the masks promised is not taken on trust."""
    weights = sum(row["rows"] * row["columns"] for row in rows)
    zeros = weights - sum(nonzeros(layer.weight_OI) for layer in decoder.layers(sites))
    asked = sum(row["sparsity_asked"] * row["rows"] * row["columns"] for row in rows) / weights
    return {"asked": asked, "found": zeros / weights, "weights": weights, "zeros": zeros, "layers": len(rows)}


def _layer_means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    columns = [column for row in rows for column in row if column.startswith("corrector_")]
    return _means(rows, ["error_before", "relative_error", "held_out_error", *columns])


def _means(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, float | None]:
    """Over the rows in which a number is known; None where in none."""
    means: dict[str, float | None] = {}
    for column in dict.fromkeys(columns):
        known = [row[column] for row in rows if row.get(column) is not None and math.isfinite(row[column])]
        means[f"{column}_mean"] = sum(known) / len(known) if known else None
    return means

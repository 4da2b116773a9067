"""One run, from a composed configuration to a folder with a result: `prepare`, then stage after stage.

Checks are ordered by their cost: options, files, a finished run that makes this one unnecessary, the architecture, the composition,
the text. Only then anything is computed. All processes of a run call the same functions; only the first one keeps a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ..core import UserError
from ..engine import Plan
from ..models import Decoder
from ..options.components import build, check_targets, components, targets
from ..options.settings import read, resolve_device
from ..processes import ALONE, Processes
from ..record import console
from ..record.environment import environment, peak_memory, resident
from ..record.groups import PRUNING, SHARED
from ..record.result import Result
from ..record.result import read as read_result
from ..record.store import RunStore, find_finished, find_interrupted
from ..stages import CHANGING, PREPARING, STAGES
from ..stages.again import why_again
from ..stages.job import Job, Place
from ..stages.key import inputs, run_key
from ..stages.loading import Held, dense_model, planned
from ..stages.recording import Recorder, Silent
from ..stages.resources import Needed, needed, rate
from ..stages.stage import Outlook, Stage
from ..stages.work import Clock, Work
from ..tracking import Watch
from . import together
from .preview import preview


def run(
    config: DictConfig, place: Place, held: Held | None = None, processes: Processes = ALONE
) -> tuple[dict[str, Any], Path]:
    """Do a run, or print its plan, or find that it is finished. `held`: the model of a sweep's last point.

    Returns the content of result.json and its folder. The content is {} for plan=true and in all processes but the first.
    """
    job = prepare(config, place, processes)
    if job.settings.plan:
        without_model()  # is measured here
        if processes.rank == 0:
            _preview(job, held)
        return {}, place.folder
    earlier = find_finished(place.finished, job.key) if processes.rank == 0 and not job.settings.rerun else None
    if not processes.agreed(earlier is not None):
        without_model()  # is measured here
        why = None if job.settings.rerun else why_again(place.finished, place.overrides, job.inputs)
        with _recorded(job, held) as work:
            if why is not None:
                console.say(why)
            result: Result | None = _run(work)
            folder = work.job.place.folder
    else:
        console.say("finished earlier, not repeated (rerun=true repeats it)")
        folder = earlier or place.folder
        result = read_result(folder)
    if processes.rank or result is None:
        return {}, place.folder
    console.table(result, folder)
    return result.to_json(), folder


@cache
def without_model() -> int:
    """The bytes that this program holds without a model. Call it before a model is loaded; the value is kept.

    It imports transformers, which is part of the program: this takes seconds, and a run that finished earlier does not need it.
    """
    from transformers import PreTrainedModel  # noqa: F401

    return resident()


def prepare(config: DictConfig, place: Place, processes: Processes = ALONE) -> Job:
    """Return the job of a configuration. Raises every mistake that can be found in milliseconds."""
    settings = read(config)
    options = components(config)
    check_targets(options, settings.allow)
    device = resolve_device(settings.device, together.local())
    parts = build(options)
    if parts.pattern.sparsity != settings.sparsity:
        always = f"pattern={place.choices['pattern']} always removes {parts.pattern.sparsity:.2%} of the weights"
        console.say(f"{always}: sparsity={settings.sparsity} is not read")
    for group in SHARED:
        asked = [word for word in place.overrides if word.lstrip("+~").startswith(group)]
        if asked and not any(group in node for _, node in targets("", options)):
            console.say(f"method={place.choices['method']} does not read {group}: {' '.join(asked)} changes nothing")
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    job = Job(settings, parts, device, "", {str(name): value for name, value in resolved.items()}, place, processes)
    for stage in STAGES:
        stage.check(job)
    files = [*parts.model.files(), *parts.dataset.files(), *parts.reference.files()]
    files += (file for evaluator in parts.evaluation.values() for file in evaluator.files())
    its = inputs(settings, options, files, device)
    return replace(job, key=run_key(its), inputs=its)


def _run(work: Work) -> Result:
    """Run the stages in order. Returns the result, which is written last; other processes than the first have only a part of it."""
    torch.set_float32_matmul_precision("highest")  # statistics and solves without TF32
    job = work.job
    for stage in PREPARING:
        _do(work, stage, None)
    need, lines = _will_need(job, _outlook(job, work.decoder, work.plan, work.ids_N.numel()))
    for line in lines:
        console.say(line)
    for name, shape in work.decoder.unpruned.items():
        console.say(f"not pruned: {name} {shape} is no linear layer's weight")
    where = environment(job.device, job.processes.size)
    work.record.begin(where)
    work.sections |= {
        "run_key": job.key,
        "name": job.settings.name,
        "command": where["command"],
        "overrides": list(job.place.overrides),
        "choices": dict(job.place.choices),
        "composition": {part: repr(getattr(job.parts, part)) for part in PRUNING},
    }
    known = {}
    for stage in filter(work.takes_part, CHANGING):
        with work.clock(stage.name):
            known[stage.name] = stage.before(work)
    for stage in filter(work.takes_part, CHANGING):
        _do(work, stage, known[stage.name])
    work.sections |= {
        "seconds": work.clock.seconds,
        "peak_memory_bytes": peak_memory(),
        "needed": {"memory_bytes": without_model() + need.memory, "disk_bytes": sum(need.disk.values())},
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(job.device) if job.device.type == "cuda" else None,
    }
    result = work.result
    work.record.finish(result)
    return result


def _do(work: Work, stage: Stage[Any], known: Any) -> None:
    """Do one stage, and add its findings to the sections of the result, to the measures and to the tables."""
    counts_itself = len(stage.clocks) > 1
    with nullcontext() if counts_itself else work.clock(stage.name):
        found = stage.do(work, known)
    merge(work.sections, found.sections)
    work.measures += found.measures
    for name, rows in found.tables.items():
        work.record.table(name, rows)


def merge(sections: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add sections to a result. Two mappings of the same name are merged."""
    for name, section in more.items():
        earlier = sections.get(name)
        sections[name] = {**earlier, **section} if isinstance(earlier, dict) and isinstance(section, dict) else section


def _outlook(job: Job, decoder: Decoder, plan: Plan, tokens: int = 0) -> Outlook:
    streamed, sweep = job.parts.model.stream, job.place.sweep is not None
    return Outlook(job.settings, job.parts, decoder, plan, tokens, streamed, sweep)


def _will_need(job: Job, outlook: Outlook) -> tuple[Needed, list[str]]:
    """The resources that a run will need, and lines about them for the user."""
    need = needed(STAGES, outlook)
    return need, [*need.told(without_model(), rate(job.device, outlook.decoder.embedding_VE.dtype))]


def _preview(job: Job, held: Held | None) -> None:
    decoder = dense_model(job, held).decoder
    outlook = _outlook(job, decoder, planned(job, decoder))
    preview(job, decoder, outlook.plan, _will_need(job, outlook)[1])


@contextmanager
def _recorded(job: Job, held: Held | None) -> Iterator[Work]:
    """A context with the work of a run. Its first process records it in a folder that no other run writes."""
    clock = Clock(name for stage in STAGES for name in stage.clocks)
    with ExitStack() as stack:
        if job.processes.rank:
            yield Work(job, Silent(), clock, held)
            return
        job = stack.enter_context(_claimed(job))
        watch = stack.enter_context(Watch(job.parts.tracker))
        scratch = stack.enter_context(job.store.scratch()) if job.parts.model.stream else None
        record = Recorder(job, watch)
        stack.callback(record.journal.close)
        yield Work(job, record, clock, held, scratch)


@contextmanager
def _claimed(job: Job) -> Iterator[Job]:
    """A context with the job and a locked folder: that of the same interrupted run, or else the folder that it was given."""
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

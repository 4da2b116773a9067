"""The pruning of one run: what it walks along, a row for every layer, and after every block what it takes to go on from there.

Of several processes the first one keeps the record (`prune`). The others go the same way (`assist`), and keep nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core import Site
from ..engine import LayerReport, Plan, prune_block, prune_head
from ..methods import Route
from ..models import Block
from ..stream import Stream
from . import console
from .calibration import calibration
from .dense import Dense
from .environment import circumstances, peak_memory
from .job import Clock, Job
from .journal import Done, Journal
from .tracking import Watch


class Outcome(NamedTuple):
    rows: list[dict[str, Any]]  # of layers.csv
    refined: list[dict[str, Any]]  # of blocks.csv
    keep_sha256: str  # of all masks
    resumed: list[int]  # blocks at which the run was taken up again
    forwards: int  # blocks run on the calibration text, times batches
    peak_memory: list[int]  # of each process so far, bytes


def prune(job: Job, dense: Dense, plan: Plan, ids_BT: Tensor | None, clock: Clock, watch: Watch) -> Outcome:
    """Prune the model in place, from where the journal says. layers.csv is written block by block."""
    journal = Journal(job.place.folder, {"run_key": job.key, **circumstances(job.device, job.processes.size)})
    rows: list[dict[str, Any]] = []
    refined: list[dict[str, Any]] = []
    digest = hashlib.sha256()
    keeps: dict[str, Tensor] = {}  # of the block at work

    def add(row: dict[str, Any], keep_B: Tensor) -> None:
        rows.append(row)
        digest.update(keep_B.numpy().tobytes())
        watch.layer(row)

    def tables() -> None:
        job.store.csv("layers.csv", rows)
        if refined:
            job.store.csv("blocks.csv", refined)

    def note(block: Block, facts: Mapping[str, float]) -> None:
        if facts:
            refined.append({"block": block.index, **facts})

    def reports(stream: Stream, done: int, resumed: list[int]) -> Iterator[LayerReport]:
        for block in stream.blocks[done:]:
            first, before = len(rows), stream.seconds
            with clock("prune"):
                facts = yield from prune_block(stream, plan, block)
            clock.move("prune", "calibrate", stream.seconds - before)
            clock.move("prune", "refine", facts.get("seconds", 0.0))
            note(block, facts)
            with clock("journal"):
                tables()
                if job.settings.journal:
                    seconds = {stage: clock.seconds[stage] for stage in ("calibrate", "prune", "refine")}
                    hidden = [state_BTI.cpu() for state_BTI in stream.carried()]
                    with block.at_hand():
                        weights = {
                            site.name: block.layer(site).weight_OI for site in block.linears if site.name in keeps
                        }
                        journal.put(block.index, Done(rows[first:], facts, seconds, resumed, weights, keeps), hidden)
            keeps.clear()
        with clock("prune"):
            yield from prune_head(plan, stream.device)

    with ExitStack() as stack:
        stack.callback(journal.close)
        with clock("calibrate"):
            stream = stack.enter_context(_along(job, dense, plan, ids_BT))
        done, hidden = journal.read()
        job.processes.words(str(done))
        resumed: list[int] = []
        for block in stream.blocks[:done]:
            was = journal.block(block.index)
            with block.at_hand():
                for site in block.linears:
                    if site.name in was.weights:
                        block.write(site, was.weights[site.name])
            for row in was.rows:
                add(row, was.keeps[row["name"]])
            note(block, was.refined)
        if done:
            stream.carry(job.processes.each(hidden))
            clock.add(was.seconds)
            resumed = [*was.resumed, done]
            console.say(f"going on at block {done + 1} of {len(stream.blocks)}, where this run was interrupted")
        walk = reports(stream, done, resumed)
        for report in console.progress(walk, len(plan.sites), len(stream.blocks), len(rows)):
            keeps[report.site.name] = torch.from_numpy(np.packbits(report.keep_OI.cpu().numpy()))
            add(_row(report, _method(job, report.site)), keeps[report.site.name])
        tables()
        forwards, peak_memory = _spent(job, stream)
        return Outcome(rows, refined, digest.hexdigest(), resumed, forwards, peak_memory)


def assist(job: Job, dense: Dense, plan: Plan, ids_BT: Tensor | None) -> None:
    """What the other processes do meanwhile. Every exchange of `prune` has its counterpart here."""
    with _along(job, dense, plan, ids_BT) as stream:
        done = int(job.processes.words("")[0])
        if done:
            stream.carry(job.processes.each(()))
        for block in stream.blocks[done:]:
            deque(prune_block(stream, plan, block), maxlen=0)
            if job.settings.journal:
                deque(stream.carried(), maxlen=0)
        _spent(job, stream)


def _along(job: Job, dense: Dense, plan: Plan, ids_BT: Tensor | None) -> AbstractContextManager[Stream]:
    propagate, target = job.settings.calibration.propagate, plan.refinement.target
    return calibration(job, dense, plan.needs, ids_BT, propagate, target, job.processes)


def _spent(job: Job, stream: Stream) -> tuple[int, list[int]]:
    """Blocks run, times batches, by all processes, and the peak memory of each."""
    told = [json.loads(word) for word in job.processes.words(json.dumps([stream.forwards, peak_memory()]))]
    return sum(forwards for forwards, _ in told), [peak for _, peak in told]


def _method(job: Job, site: Site) -> str:
    """What was chosen for this layer, by the name of the option."""
    method, choices = job.parts.method, job.place.choices
    if site.role == "head":
        return "magnitude"
    if isinstance(method, Route):
        return choices.get(f"method@method.routes.{method.key(site)}", choices["method"])
    return choices["method"]


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
        "error_before": report.error_before,
        "relative_error": report.error,
        "seconds": round(report.seconds, 6),
        "corrector_seconds": round(report.corrector_seconds, 6),
        **report.facts,
    }

"""The pruning of one run: what it walks along, a row for every layer, and after every block what it takes to go on from there.

Of several processes the first one keeps the record (`prune`). The others go the same way (`assist`), and keep nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core import Site
from ..engine import GRAM, LayerReport, Plan, prune_block, prune_head
from ..methods import Route
from ..models import Block
from ..record import console
from ..record.environment import circumstances, peak_memory
from ..stream import Stream
from ..tracking import Watch
from .calibration import calibration
from .drawing import Sequences
from .job import Clock, Job
from .journal import Done, Journal
from .loading import Dense


@dataclass(frozen=True)
class Streams:
    """What is walked along: text that is learnt from, and text that judges what was learnt."""

    learnt: Stream
    held_out: Stream | None

    @property
    def seconds(self) -> float:
        return sum(stream.seconds for stream in self._all)

    @property
    def forwards(self) -> int:
        return sum(stream.forwards for stream in self._all)

    def carried(self) -> Iterator[Tensor]:
        for stream in self._all:
            yield from stream.carried()

    def carry(self, states: Iterable[Tensor]) -> None:
        """Go on with those that `carried` gave elsewhere."""
        states = iter(states)
        for stream in self._all:
            stream.carry(states)

    @property
    def _all(self) -> list[Stream]:
        return [self.learnt, *([self.held_out] if self.held_out else [])]


class Outcome(NamedTuple):
    rows: list[dict[str, Any]]  # of layers.csv
    refined: list[dict[str, Any]]  # of blocks.csv
    keep_sha256: str  # of all masks
    resumed: list[int]  # blocks at which the run was taken up again
    forwards: int  # blocks run on the calibration text, times batches
    peak_memory: list[int]  # of each process so far, bytes


def prune(job: Job, dense: Dense, plan: Plan, drawn: Sequences, clock: Clock, watch: Watch) -> Outcome:
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

    def reports(streams: Streams, done: int, resumed: list[int]) -> Iterator[LayerReport]:
        for block in streams.learnt.blocks[done:]:
            first, before = len(rows), streams.seconds
            with clock("prune"):
                facts = yield from prune_block(streams.learnt, plan, block, streams.held_out)
            clock.move("prune", "calibrate", streams.seconds - before)
            clock.move("prune", "refine", facts.get("seconds", 0.0))
            note(block, facts)
            with clock("journal"):
                tables()
                if job.settings.journal:
                    seconds = {stage: clock.seconds[stage] for stage in ("calibrate", "prune", "refine")}
                    hidden = [state_BTI.cpu() for state_BTI in streams.carried()]
                    with block.at_hand():
                        weights = {
                            site.name: block.layer(site).weight_OI for site in block.linears if site.name in keeps
                        }
                        journal.put(block.index, Done(rows[first:], facts, seconds, resumed, weights, keeps), hidden)
            keeps.clear()
        with clock("prune"):
            yield from prune_head(plan, job.device)

    with ExitStack() as stack:
        stack.callback(journal.close)
        with clock("calibrate"):
            streams = stack.enter_context(_along(job, dense, plan, drawn))
        done, hidden = journal.read()
        job.processes.words(str(done))
        resumed: list[int] = []
        blocks = streams.learnt.blocks
        for block in blocks[:done]:
            was = journal.block(block.index)
            with block.at_hand():
                for site in block.linears:
                    if site.name in was.weights:
                        block.write(site, was.weights[site.name])
            for row in was.rows:
                add(row, was.keeps[row["name"]])
            note(block, was.refined)
        if done:
            streams.carry(job.processes.each(hidden))
            clock.add(was.seconds)
            resumed = [*was.resumed, done]
            console.say(f"going on at block {done + 1} of {len(blocks)}, where this run was interrupted")
        walk = reports(streams, done, resumed)
        for report in console.progress(walk, len(plan.sites), len(blocks), len(rows)):
            keeps[report.site.name] = torch.from_numpy(np.packbits(report.keep_OI.cpu().numpy()))
            add(_row(report, _method(job, report.site)), keeps[report.site.name])
        tables()
        forwards, peak_memory = _spent(job, streams)
        return Outcome(rows, refined, digest.hexdigest(), resumed, forwards, peak_memory)


def assist(job: Job, dense: Dense, plan: Plan, drawn: Sequences) -> None:
    """What the other processes do meanwhile. Every exchange of `prune` has its counterpart here."""
    with _along(job, dense, plan, drawn) as streams:
        done = int(job.processes.words("")[0])
        if done:
            streams.carry(job.processes.each(()))
        for block in streams.learnt.blocks[done:]:
            deque(prune_block(streams.learnt, plan, block, streams.held_out), maxlen=0)
            if job.settings.journal:
                deque(streams.carried(), maxlen=0)
        _spent(job, streams)


@contextmanager
def _along(job: Job, dense: Dense, plan: Plan, drawn: Sequences) -> Iterator[Streams]:
    propagate, target = job.settings.calibration.propagate, plan.refinement.target
    with ExitStack() as stack:
        ids_BT, held_out = drawn.ids_BT if plan.last >= 0 else None, None
        learnt = stack.enter_context(calibration(job, dense, plan.needs, ids_BT, propagate, target, job.processes))
        if drawn.held_out_HT is not None:
            judged = dict.fromkeys(plan.needs, (GRAM,))
            along = calibration(job, dense, judged, drawn.held_out_HT, propagate, processes=job.processes)
            held_out = stack.enter_context(along)
        yield Streams(learnt, held_out)


def _spent(job: Job, streams: Streams) -> tuple[int, list[int]]:
    """Blocks run, times batches, by all processes, and the peak memory of each."""
    told = [json.loads(word) for word in job.processes.words(json.dumps([streams.forwards, peak_memory()]))]
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
        **({} if report.held_out_error is None else {"held_out_error": report.held_out_error}),
        "seconds": round(report.seconds, 6),
        "corrector_seconds": round(report.corrector_seconds, 6),
        **report.facts,
    }

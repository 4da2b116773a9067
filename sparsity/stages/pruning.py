"""The stage `prune`: prunes block by block along the calibration text. It records each layer's mask and row of layers.csv, and
writes a resume checkpoint after each block. A refinement tunes each block before the next one is pruned.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core import Site, UserError, solving
from ..engine import GRAM, LayerReport, prune_block, prune_head
from ..methods import Route
from ..models import Block
from ..record import console
from ..record.environment import peak_memory
from ..stream import Stream
from .calibration import calibration
from .job import Job
from .journal import Done
from .sizes import KEPT, TUNED, largest, products, statistics, tokens_of_tuning
from .stage import Cost, Found, Outlook, Plain

if TYPE_CHECKING:
    from .work import Work

# Measured: tests/stages/test_resources.py compares the sum with the memory of a real process.
WORK = 6  # float32 numbers for each weight of the largest layer: a score, its selection and a few copies
FACTORS = 2  # times the largest statistic: for a Cholesky factor and its inverse
COPIES = 2  # of a journal file's content while it is written: its parts, and the whole


@dataclass(frozen=True)
class Prune(Plain):
    """The stage `prune`."""

    name = "prune"

    @property
    def clocks(self) -> Sequence[str]:
        return ("calibrate", "prune", "refine", "journal")

    def check(self, job: Job) -> None:
        text, refine = job.settings.calibration, job.parts.refine
        refine.check(text.sequences, text.batch_size)
        if job.processes.size > 1 and refine.target is not None:
            raise UserError(
                f"refine tunes a block step by step, on batches of the whole text: expected one process, got "
                f"{job.processes.size}. Start python run.py without torchrun, or use refine=none"
            )

    def cost(self, outlook: Outlook) -> Cost:
        """The memory for a block while its statistics are collected, while it is pruned, and while it is refined.

        observe    its statistics; one to three copies of the hidden states; the outputs of its layers for a batch; the journal's
                   tensors of the block before, and the file that is made of them
        prune      statistics, hidden states, masks, and the working memory of methods and correctors
        refine     copies of its weights for the descent, and a batch's activations

        Operations are upper bounds: a pass that observes counts in full, though it ends at the last input that is needed, and a
        refinement counts with all its epochs.
        """
        of, calibration, plan = outlook.shapes, outlook.settings.calibration, outlook.plan
        decoder, journal, streamed = outlook.decoder, outlook.settings.journal, outlook.streamed
        dense, refined = calibration.propagate == "dense", plan.refinement.target is not None
        learnt, judged = (
            n * calibration.seqlen if plan.last >= 0 else 0 for n in (calibration.sequences, calibration.held_out)
        )
        judges = dict.fromkeys(plan.needs, (GRAM,)) if judged else {}
        folded = statistics(calibration, decoder, plan.needs) + statistics(calibration, decoder, judges)
        hidden = of.element * of.width * (learnt * _copies(outlook) + judged * (1 + dense))
        put, file = (hidden + of.block * streamed) * journal, max(hidden, of.block) * journal
        batch = min(calibration.batch_size * calibration.seqlen, learnt)
        folds = {"statistics": max(folded.values(), default=0), "hidden states": hidden}
        activations = of.element * batch * of.outputs
        work = 4 * WORK * of.layer + FACTORS * largest(calibration, decoder, plan.needs)
        peaks = {
            "observe": {**folds, "activations": activations, "journal": put + COPIES * file},
            "prune": {**folds, "masks": of.linear, "work": work, "journal": put + file},
        }
        if refined:
            peaks["refine"] = {
                "tuned weights": 4 * TUNED * of.linear,
                "masks": of.linear,
                "activations": KEPT * activations,
                "hidden states": hidden,
                "journal": put + file,
            }
        changed = sum(decoder.layer(site).weight_OI.numel() for site in plan.sites)
        cached = outlook.settings.cache.statistics and dense and not refined
        blocks, each = plan.last + 1, of.operations(calibration.seqlen)
        passes = learnt * _passes(outlook) + judged * (1 if dense else 2)
        return Cost(
            peaks=peaks,
            disk={
                "journal": (of.element * changed + changed // 8 + 2 * hidden) * journal,
                "statistics": sum(folded.values()) * cached,
            },
            operations={
                "calibration": passes * blocks * each,
                "statistics": learnt * sum(products(calibration, decoder, plan.needs).values())
                + judged * sum(products(calibration, decoder, judges).values()),
                "solving": sum(_solving(outlook, site) for site in plan.needs),
                "refining": tokens_of_tuning(plan.refinement, calibration) * blocks * each,
            },
            moved=2 * of.weights * (streamed and plan.last >= 0),
        )

    def do(self, work: Work, known: None) -> Found:
        """Prune the model in place, after the last block in the journal. layers.csv is written block by block."""
        walk = _Walk(work)
        processes, journal = work.job.processes, work.record.journal
        with _along(work) as streams:
            done, hidden = journal.read()
            blocks = streams.learnt.blocks
            for block in blocks[:done]:
                walk.resume(block, journal.block(block.index))
            if done := processes.agreed(done):
                streams.carry(processes.each(hidden))
                work.clock.add(walk.spent)
                walk.resumed += [done]
                console.say(f"resuming at block {done + 1} of {len(blocks)}, where this run was interrupted")
            reports = walk.reports(streams, blocks[done:])
            for report in console.progress(reports, len(work.plan.sites), len(blocks), len(walk.rows)):
                walk.add(report)
            walk.tables()
            told = json.dumps([streams.forwards, peak_memory()])
            spent = [json.loads(word) for word in processes.words(told)]
        work.rows, work.keeps = walk.rows, walk.keeps
        sites = {*work.decoder.sites, *work.plan.sites}
        return Found(
            {
                "calibration": {"block_forwards": sum(forwards for forwards, _ in spent)},
                "layers": {"pruned": len(walk.rows), "all": len(sites), **_layer_means(walk.rows)},
                "blocks": {
                    "refined": len(walk.refined),
                    **_means(walk.refined, walk.refined[0] if walk.refined else ()),
                },
                "resumed": walk.resumed,
                "processes": [{"peak_memory_bytes": peak} for _, peak in spent],
                "mask_sha256": walk.digest.hexdigest(),
            }
        )


@dataclass(frozen=True)
class Streams:
    """The streams of two texts: the calibration text, and a held-out text on which layer errors are measured."""

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
        """Resume with the hidden states that `carried` returned."""
        states = iter(states)
        for stream in self._all:
            stream.carry(states)

    @property
    def _all(self) -> list[Stream]:
        return [self.learnt, *([self.held_out] if self.held_out else [])]


@dataclass
class _Walk:
    """The walk over the blocks, with the records of the blocks that are done."""

    work: Work
    rows: list[dict[str, Any]] = field(default_factory=list)  # the rows of layers.csv
    refined: list[dict[str, Any]] = field(default_factory=list)  # the rows of blocks.csv
    keeps: dict[Site, Tensor] = field(default_factory=dict)  # masks as packed bits: of a block, or all for a recovery
    resumed: list[int] = field(default_factory=list)  # blocks at which the run was resumed
    spent: Mapping[str, float] = field(default_factory=dict)  # the seconds of the blocks that were resumed
    digest: Any = field(default_factory=hashlib.sha256)  # the sha256 over all masks

    def add(self, report: LayerReport) -> None:
        """Record a pruned layer."""
        row = _row(report, _method(self.work.job, report.site))
        self._add(report.site, row, torch.from_numpy(np.packbits(report.keep_OI.cpu().numpy())))

    def resume(self, block: Block, was: Done) -> None:
        """Restore a block from the journal: its weights, rows and masks, and the run's seconds so far."""
        with block.at_hand():
            for site in block.linears:
                if site.name in was.weights:
                    block.write(site, was.weights[site.name])
        sites = {site.name: site for site in block.linears}
        for row in was.rows:
            self._add(sites[row["name"]], row, was.keeps[row["name"]])
        self._refined(block, was.refined)
        self._forget()
        self.resumed = [*was.resumed]
        self.spent = was.seconds

    def reports(self, streams: Streams, blocks: Sequence[Block]) -> Iterator[LayerReport]:
        """Prune these blocks, and the head if that is planned; yield the report of each layer when it is done."""
        clock, plan, device = self.work.clock, self.work.plan, self.work.job.device
        for block in blocks:
            first, before = len(self.rows), streams.seconds
            with clock("prune"):
                facts = yield from prune_block(streams.learnt, plan, block, streams.held_out)
            clock.move("prune", "calibrate", streams.seconds - before)
            clock.move("prune", "refine", facts.get("seconds", 0.0))
            self._refined(block, facts)
            with clock("journal"):
                self.tables()
                self._keep(block, self.rows[first:], facts, streams)
            self._forget()
        with clock("prune"):
            yield from prune_head(plan, device)

    def tables(self) -> None:
        self.work.record.table("layers", self.rows)
        if self.refined:
            self.work.record.table("blocks", self.refined)

    def _keep(self, block: Block, rows: list[dict[str, Any]], facts: Mapping[str, float], streams: Streams) -> None:
        """Write the block and the hidden states after it to the journal. All processes send their hidden states for this."""
        if not self.work.job.settings.journal:
            return
        seconds = {name: self.work.clock.seconds[name] for name in ("calibrate", "prune", "refine")}
        hidden = self.work.record.gathered(streams.carried())
        keeps = {site.name: self.keeps[site] for site in block.linears if site in self.keeps}
        with block.at_hand():
            weights = {site.name: block.layer(site).weight_OI for site in block.linears if site in self.keeps}
            done = Done(rows, facts, seconds, self.resumed, weights, keeps)
            self.work.record.journal.put(block.index, done, hidden)

    def _add(self, site: Site, row: dict[str, Any], keep_B: Tensor) -> None:
        self.rows.append(row)
        self.keeps[site] = keep_B
        self.digest.update(keep_B.numpy().tobytes())
        self.work.record.layer(row)

    def _forget(self) -> None:
        """Drop the masks of a finished block, unless a recovery will need them: memory must not grow with depth."""
        if not self.work.job.parts.recover.reads_text:
            self.keeps.clear()

    def _refined(self, block: Block, facts: Mapping[str, float]) -> None:
        if facts:
            self.refined.append({"block": block.index, **facts})


def _solving(outlook: Outlook, site: Site) -> int:
    """Operations of the method and the corrector for a layer, as they say themselves."""
    plan, (outputs, inputs) = outlook.plan, outlook.decoder.layer(site).weight_OI.shape
    if not plan.method.asked(site, plan.patterns[site]):
        return 0
    products = sum(solving(part, site, outputs, inputs) for part in (plan.method, plan.corrector))
    return round(2 * outputs * inputs**2 * products)


def _copies(outlook: Outlook) -> int:
    """The largest number of hidden states that are held for a sequence at once."""
    dense, target = outlook.settings.calibration.propagate == "dense", outlook.plan.refinement.target
    return 1 + (dense or target == "own") + 2 * (not dense and target == "dense")


def _passes(outlook: Outlook) -> int:
    """The number of times that each block runs on the calibration text."""
    dense, target = outlook.settings.calibration.propagate == "dense", outlook.plan.refinement.target
    return 1 if dense else 2 + (target == "dense")


def unpacked(keep_B: Tensor, like_OI: Tensor) -> Tensor:
    """Unpack bits into the mask (O, I), on the device and in the shape of `like_OI`."""
    bits = np.unpackbits(keep_B.numpy(), count=like_OI.numel())
    return torch.from_numpy(bits).bool().view(like_OI.shape).to(like_OI.device)


@contextmanager
def _along(work: Work) -> Iterator[Streams]:
    job, plan = work.job, work.plan
    propagate, target = job.settings.calibration.propagate, plan.refinement.target
    with ExitStack() as stack:
        with work.clock("calibrate"):
            ids_BT, held_out = work.ids_BT if plan.last >= 0 else None, None
            along = calibration(job, work.dense, plan.needs, ids_BT, propagate, target, job.processes)
            learnt = stack.enter_context(along)
            if work.held_out_HT is not None:
                judged = dict.fromkeys(plan.needs, (GRAM,))
                along = calibration(job, work.dense, judged, work.held_out_HT, propagate, processes=job.processes)
                held_out = stack.enter_context(along)
        yield Streams(learnt, held_out)


def _method(job: Job, site: Site) -> str:
    """The name of the option that was chosen as this layer's method."""
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


def _layer_means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    columns = [column for row in rows for column in row if column.startswith("corrector_")]
    return _means(rows, ["error_before", "relative_error", "held_out_error", *columns])


def _means(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, float | None]:
    """The mean of each column over the rows that have a finite value of it; None if no row has one."""
    means: dict[str, float | None] = {}
    for column in dict.fromkeys(columns):
        known = [row[column] for row in rows if row.get(column) is not None and math.isfinite(row[column])]
        means[f"{column}_mean"] = sum(known) / len(known) if known else None
    return means

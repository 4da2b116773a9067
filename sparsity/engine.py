"""The whole algorithm: for every block, learn what was asked, choose the survivors, repair them, refine the block, move on."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .core import Corrected, Corrector, Method, Pattern, Pruned, Site, Stats, Tap, UserError, distinct
from .correctors import NoCorrection
from .linalg import all_finite, nonzeros, relative_error
from .methods import Magnitude
from .models.blocks import Block
from .models.decoder import Decoder
from .ranges import written
from .refine import NoRefinement, Refinement
from .statistics import Gram
from .stream import Stream, now

GRAM = Tap(Gram())
NO_REFINEMENT = NoRefinement()
LayerError = Literal["auto"] | bool


@dataclass(frozen=True)
class Plan:
    """A composition that fits a model, and what each layer to be pruned will ask for."""

    method: Method
    patterns: Mapping[Site, Pattern]
    corrector: Corrector
    layer_error: LayerError
    needs: Mapping[Site, tuple[Tap[Any], ...]]
    refinement: Refinement
    head: Block | None = None  # the output head, if it is to be pruned too: by magnitude

    @property
    def sites(self) -> tuple[Site, ...]:
        """All layers to be pruned, in the order of their reports."""
        return (*self.needs, *(self.head.linears if self.head else ()))

    @property
    def last(self) -> int:
        """The last block that anything is asked of; -1: no text and no forward pass are needed."""
        refined = self.refinement.target is not None
        return max((site.block for site, taps in self.needs.items() if taps or refined), default=-1)


@dataclass(frozen=True)
class LayerReport:
    site: Site
    shape: tuple[int, int]  # outputs, inputs
    asked: float  # fraction
    found: float  # fraction of the mask that was removed
    error_before: (
        float | None
    )  # sqrt(L(W) / L(0)) on the calibration text, as the method left it; None where no Gram was folded
    error: float | None  # the same, as the corrector left it
    held_out_error: float | None  # the same on text that nothing was learnt from; None where there is none
    seconds: float  # method, corrector and writing, without the errors
    corrector_seconds: float
    facts: Mapping[str, float]
    keep_OI: Tensor


def select(
    sites: Sequence[Site], roles: Collection[str], last_blocks: int | None, skip: Collection[str]
) -> tuple[Site, ...]:
    """The sites to prune: those of `roles`, in the last `last_blocks` blocks (None: all), without those that `skip` names.

    A name is a layer's full name or its last part. A name that no layer has is refused, and so is an empty selection.
    """
    depth = max(site.block for site in sites) + 1
    if last_blocks is not None and not 1 <= last_blocks <= depth:
        raise UserError(
            f"scope.last_blocks={last_blocks} is out of range: expected 1 to {depth}, the model's number of blocks"
        )
    for name in skip:
        if not any(name in (site.name, site.leaf) for site in sites):
            leaves = ", ".join(dict.fromkeys(site.leaf for site in sites))
            raise UserError(
                f"scope.skip names {name!r}, which no layer is called. Layers: {leaves}, or full names as {sites[0].name}"
            )
    first = depth - (last_blocks or depth)
    chosen = [s for s in sites if s.role in roles and s.block >= first and not {s.name, s.leaf} & set(skip)]
    if not chosen:
        found = ", ".join(sorted({site.role for site in sites}))
        raise UserError(
            f"scope leaves no layer to prune: roles={list(roles)} of {found}, skip={list(skip)}. Widen the scope"
        )
    return tuple(chosen)


def asks(method: Method, corrector: Corrector, layer_error: LayerError, site: Site) -> tuple[Tap[Any], ...]:
    """All that is folded for one layer."""
    return distinct([*method.needs(site), *corrector.needs(site), *([GRAM] if layer_error is True else [])])


def plan(
    decoder: Decoder,
    method: Method,
    pattern: Pattern,
    corrector: Corrector,
    sites: Collection[Site] | None = None,
    layer_error: LayerError = "auto",
    head: bool = False,
    refinement: Refinement = NO_REFINEMENT,
) -> Plan:
    """Every mistake in a composition surfaces here, before any text is read and any block runs. `sites` None: all of the blocks'.

    Every layer has the one pattern. An allocation replaces `patterns`, which may differ in their sparsity alone.
    `head`: the output head as well, by magnitude, since no calibration text is run through it.
    `layer_error`: True folds a Gram for every layer so that its error is known, "auto" reports it where one is folded anyway.
    """
    decoder.check_finite()
    chosen = tuple(decoder.sites if sites is None else sites)
    method.check(chosen, pattern)
    needs: dict[Site, tuple[Tap[Any], ...]] = {}
    for site in chosen:
        if method.asked(site, pattern):
            pattern.check(decoder.layer(site))
        needs[site] = asks(method, corrector, layer_error, site)
    for site in decoder.head_block.linears if head else ():
        pattern.check(decoder.layer(site))
    the_plan = Plan(method, {}, corrector, layer_error, needs, refinement, decoder.head_block if head else None)
    return replace(the_plan, patterns=dict.fromkeys(the_plan.sites, pattern))


def prune(stream: Stream, plan: Plan, held_out: Stream | None = None) -> Iterator[LayerReport]:
    """Prune the planned layers of the stream's model in place, a report for each when done. Whoever iterates does the logging.

    `held_out`: of the same model, along text that nothing is learnt from; the layers' errors are taken on it too.
    """
    for block in stream.blocks:
        yield from prune_block(stream, plan, block, held_out)
    yield from prune_head(plan, stream.device)


def prune_block(
    stream: Stream, plan: Plan, block: Block, held_out: Stream | None = None
) -> Generator[LayerReport, None, Mapping[str, float]]:
    """The same of one block, in front of which the streams stand. They are moved on as far as the plan needs it.

    Returns what the refinement says of the block: nothing where there is none, or where nothing was asked of its layers.
    """
    keeps: dict[Site, Tensor] = {}
    refined: dict[str, float] = {}
    with block.on(stream.device):
        needs = {site: plan.needs[site] for site in block.linears if site in plan.needs}
        stats = stream.observe(block, needs) if block.index <= plan.last else {site: Stats(site) for site in needs}
        judges = held_out.observe(block, dict.fromkeys(needs, (GRAM,))) if held_out else {}
        for site in needs:
            report = _prune_layer(plan, block, site, stats.pop(site), stream.device, judges.pop(site, None))
            if report.asked:
                keeps[site] = report.keep_OI
            yield report
        if keeps and plan.refinement.target is not None:
            start = now(stream.device)
            refined |= plan.refinement.refine(block, stream.passage(block), keeps)
            refined["seconds"] = now(stream.device) - start
        if block.index < plan.last:
            stream.advance(block)
        if held_out and block.index < max(site.block for site in plan.needs):
            held_out.advance(block)
    return refined


def prune_head(plan: Plan, device: torch.device) -> Iterator[LayerReport]:
    """The same of the output head, if that is planned."""
    if plan.head:
        by_magnitude = replace(
            plan, method=Magnitude("layer"), corrector=NoCorrection(), needs=dict.fromkeys(plan.head.linears, ())
        )
        with plan.head.on(device):
            for site in plan.head.linears:
                yield _prune_layer(by_magnitude, plan.head, site, Stats(site), device)


def _prune_layer(
    plan: Plan, block: Block, site: Site, stats: Stats, device: torch.device, judge: Stats | None = None
) -> LayerReport:
    """A function of its own, so that a layer's statistics are gone before the next one's are derived."""
    start = now(device)
    layer = block.layer(site)
    pruned = plan.method.prune(layer, plan.patterns[site], stats)
    chosen = now(device)
    corrected = plan.corrector.correct(layer, pruned, stats)
    repaired = now(device)
    asked = plan.method.asked(site, plan.patterns[site])
    kept = _kept(plan, site, asked, pruned, corrected)
    before, after, unseen = None, None, None
    if GRAM in plan.needs[site] and plan.layer_error is not False:
        gram_II = stats[GRAM].gram_II
        before = after = relative_error(gram_II, layer.weight_OI, pruned.weight_OI).item()
        if corrected.weight_OI is not pruned.weight_OI:
            after = relative_error(gram_II, layer.weight_OI, corrected.weight_OI).item()
    if judge is not None:
        unseen = relative_error(judge[GRAM].gram_II, layer.weight_OI, corrected.weight_OI).item()
    block.write(site, stats.processes.first(corrected.weight_OI))  # all go on with one model, to the last bit
    return LayerReport(
        site=site,
        shape=(layer.weight_OI.shape[0], layer.weight_OI.shape[1]),
        asked=asked,
        found=1 - kept / pruned.keep_OI.numel(),
        error_before=before,
        error=after,
        held_out_error=unseen,
        seconds=repaired - start,
        corrector_seconds=repaired - chosen,
        facts={**pruned.facts, **{f"corrector_{name}": fact for name, fact in corrected.facts.items()}},
        keep_OI=pruned.keep_OI,
    )


def _kept(plan: Plan, site: Site, asked: float, pruned: Pruned, corrected: Corrected) -> int:
    """How many weights survive. Raises `UserError`, naming the layer, where what was found is not what was asked."""
    method, corrector = written(plan.method), written(plan.corrector)
    if pruned.nan is not None and pruned.nan:
        raise UserError(
            f"{site.name}: {method} scores some of its weights NaN: expected numbers. Its options may be too large or too small "
            f"for this layer, or its score divides by zero"
        )
    for part, weight_OI in ((method, pruned.weight_OI), (corrector, corrected.weight_OI)):
        if not all_finite(weight_OI):
            raise UserError(
                f"{site.name}: {part} made weights of it that are NaN or infinite: expected numbers. Its options may be too large "
                f"or too small for this layer, or dtype=float16 too narrow"
            )
    rows, weights = len(pruned.keep_OI), pruned.keep_OI.numel()
    kept = int(pruned.keep_OI.count_nonzero())  # a sum takes eight times as long
    removed = weights - kept
    if not -(rows + pruned.fewer) <= removed - asked * weights <= rows + pruned.more:
        raise UserError(
            f"{site.name}: {removed} of its {weights} weights were removed, {removed / weights:.2%}: expected {asked:.2%}, to one "
            f"a row, of {method}. A method whose own rule removes more or fewer says so (core.Pruned)"
        )
    if (found := nonzeros(corrected.weight_OI)) > kept:
        raise UserError(
            f"{site.name}: {found} of its weights are not zero: expected the {kept} survivors at most, of {corrector} after "
            f"{method}. Removed weights are zero (core.Pruned, core.Corrected)"
        )
    return kept

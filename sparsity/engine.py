"""The pruning algorithm. For each block: collect statistics, choose masks, correct the survivors, refine the block, go on."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .core import Corrected, Corrector, Method, Pattern, Pruned, Site, Stats, Tap, UserError, distinct
from .correctors import NoCorrection
from .linalg import all_finite, relative_error
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
    """A composition of method, patterns, corrector and refinement for one model, and the statistics that each layer needs."""

    method: Method
    patterns: Mapping[Site, Pattern]
    corrector: Corrector
    layer_error: LayerError
    needs: Mapping[Site, tuple[Tap[Any], ...]]
    refinement: Refinement
    head: Block | None = None  # the output head, if it is pruned too (by magnitude)

    @property
    def sites(self) -> tuple[Site, ...]:
        """All layers that are pruned, in the order of their reports."""
        return (*self.needs, *(self.head.linears if self.head else ()))

    @property
    def last(self) -> int:
        """The index of the last block that needs statistics or refinement; -1: no text and no forward pass are needed."""
        refined = self.refinement.target is not None
        return max((site.block for site, taps in self.needs.items() if taps or refined), default=-1)


@dataclass(frozen=True)
class LayerReport:
    """The numbers of one pruned layer, and its mask. Errors are relative, sqrt(L(W) / L(0)); None without a Gram matrix."""

    site: Site
    shape: tuple[int, int]  # outputs, inputs
    asked: float  # requested sparsity
    found: float  # sparsity of the mask
    error_before: float | None  # error on the calibration text after the method
    error: float | None  # error on the calibration text after the corrector
    held_out_error: float | None  # error after the corrector on held-out text; None without such a text
    seconds: float  # method, corrector and writing, without the computation of the errors
    corrector_seconds: float
    facts: Mapping[str, float]
    keep_OI: Tensor


def select(
    sites: Sequence[Site], roles: Collection[str], last_blocks: int | None, skip: Collection[str]
) -> tuple[Site, ...]:
    """The sites to prune: those with a role in `roles`, in the last `last_blocks` blocks (None: all), except those in `skip`.

    `skip` holds full names of layers or their last parts. Raises `UserError` for a name that no layer has, for `last_blocks` out of
    range, and if no site is left.
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
                f"scope.skip names {name!r}, but no layer has this name. Layers: {leaves}, or full names such as {sites[0].name}"
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
    """The statistics of one layer: those of the method and the corrector, and with `layer_error=True` the Gram matrix."""
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
    """The plan of a composition. Raises `UserError` for every mistake in it, before any text is read or any block runs.

    `sites`: the layers to prune, None for all layers of the blocks. All get the same pattern; an allocation later replaces
    `patterns` by patterns with other sparsities. `head`: prune the output head too, by magnitude, as no calibration text runs
    through it. `layer_error`: True collects a Gram matrix for every layer to report its error; "auto" reports the error only for
    layers whose Gram matrix is collected anyway.
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
    """Prune the planned layers of the stream's model in place. Yields a report after each layer; the caller does the logging.

    `held_out`: a stream of the same model over text that is used only to report the layers' errors.
    """
    for block in stream.blocks:
        yield from prune_block(stream, plan, block, held_out)
    yield from prune_head(plan, stream.device)


def prune_block(
    stream: Stream, plan: Plan, block: Block, held_out: Stream | None = None
) -> Generator[LayerReport, None, Mapping[str, float]]:
    """Prune one block. Both streams must be positioned at it; they are advanced if a later block needs them.

    Yields a report after each layer. Returns the numbers of the refinement: empty without one, and if the block keeps all weights.
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
    """Prune the output head by magnitude, if the plan includes it. Yields its report."""
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
    """Prune and correct one layer, and write it into the block.

    This is a separate function so that a layer's statistics are freed before those of the next layer are derived.
    """
    start = now(device)
    layer = block.layer(site)
    pruned = plan.method.prune(layer, plan.patterns[site], stats)
    if pruned.keep_OI.shape != layer.weight_OI.shape or pruned.keep_OI.dtype != torch.bool:
        raise UserError(
            f"{site.name}: {written(plan.method)} returned a mask of shape {list(pruned.keep_OI.shape)} and "
            f"{pruned.keep_OI.dtype}: expected {list(layer.weight_OI.shape)} and torch.bool, True for survivors"
        )
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
    block.write(site, stats.processes.first(corrected.weight_OI))  # all processes get exactly the same weights
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
    """The number of weights that survive. Raises `UserError` for NaN or infinity, for a wrong number of zeros, and for removed
    weights that are not zero.
    """
    method, corrector = written(plan.method), written(plan.corrector)
    if pruned.nan is not None and pruned.nan:
        raise UserError(
            f"{site.name}: {method} scores some of its weights NaN: expected numbers. Its options may be too large or too small "
            f"for this layer, or its score divides by zero"
        )
    for part, weight_OI in ((method, pruned.weight_OI), (corrector, corrected.weight_OI)):
        if not all_finite(weight_OI):
            raise UserError(
                f"{site.name}: {part} gave weights that are NaN or infinite: expected numbers. Its options may be too large or too "
                f"small for this layer, or the range of dtype=float16 too small"
            )
    rows, weights = len(pruned.keep_OI), pruned.keep_OI.numel()
    kept = int(pruned.keep_OI.count_nonzero())  # a sum takes eight times as long
    removed = weights - kept
    if not -(rows + pruned.fewer) <= removed - asked * weights <= rows + pruned.more:
        raise UserError(
            f"{site.name}: {removed} of its {weights} weights were removed, {removed / weights:.2%}: expected {asked:.2%}, to one "
            f"a row, of {method}. A method whose own rule removes more or fewer says so (core.Pruned)"
        )
    if grown := int(((corrected.weight_OI != 0) > pruned.keep_OI).count_nonzero()):
        raise UserError(
            f"{site.name}: {grown} of the weights that the mask removes are not zero: expected only the {kept} survivors to have "
            f"values, of {corrector} after {method}. Removed weights are zero (core.Pruned, core.Corrected)"
        )
    return kept

"""The contract of a method, a pattern and a corrector: a walk that is watched, and the promises in CHECKS and PAIR_CHECKS."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

import architectures as zoo
import pytest
import torch
from composing import compose
from problems import GRAM
from together import together
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, PreTrainedModel

from sparsity.core import Corrected, Corrector, Criterion, Layer, Method, Pattern, Pruned, Site, Stats, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import LayerReport, Plan, plan, prune
from sparsity.linalg import layer_loss
from sparsity.methods import Route, Successor
from sparsity.models import Decoder
from sparsity.options.components import build, check_targets, components
from sparsity.processes import ALONE, Processes
from sparsity.stream import BlockStream

AXES = ("method", "pattern", "corrector")

# Not a half, where what survives and what goes could be mistaken for one another; exact for every row, block and layer below.
SPARSITY = 0.75
WIDTH = 16  # of the blocks of a method that works in blocks of inputs: two or more to each layer


@dataclass(frozen=True)
class Case:
    architecture: str
    dtype: torch.dtype
    propagate: str

    def __str__(self) -> str:
        return f"{self.architecture}-{str(self.dtype).removeprefix('torch.')}-{self.propagate}"


CASES = [
    Case("llama", torch.float32, "pruned"),
    Case("llama", torch.float32, "dense"),
    Case("llama", torch.bfloat16, "pruned"),
    Case("gpt2", torch.float32, "pruned"),  # Conv1D stores its weights transposed
    Case("gpt2", torch.bfloat16, "dense"),
]


@cache
def template(case: Case) -> PreTrainedModel:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
    if case.architecture == "gpt2":
        return zoo.build(GPT2Config(vocab_size=zoo.VOCAB, **sizes), case.dtype)
    # its own head, so that whoever writes where it should not shows
    return zoo.build(LlamaConfig(**zoo.LLAMA | {"num_hidden_layers": 2, "tie_word_embeddings": False}), case.dtype)


# --- composing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    method: Method
    pattern: Pattern
    corrector: Corrector


@cache
def options(axis: str, option: str) -> dict[str, Any]:
    config = compose(f"{axis}={option}", f"sparsity={SPARSITY}", "model=tiny")
    written = copy.deepcopy(components(config)[axis])
    return written | ({"width": WIDTH} if "width" in written else {})


def assembled(combination: tuple[str, str, str]) -> Parts:
    """The three components, newly made as a run would make them."""
    written = components(compose("model=tiny")) | {
        axis: options(axis, option) for axis, option in zip(AXES, combination, strict=True)
    }
    check_targets(written, [])
    parts = build(written)
    return Parts(parts.method, parts.pattern, parts.corrector)


# --- a walk, watched --------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """The inputs and outputs of the components at one layer."""

    dense_OI: Tensor
    pruned: Pruned
    corrected_OI: Tensor
    wrote: list[str] = field(default_factory=list)  # the inputs that somebody wrote to


@dataclass
class Watch:
    """Stands in for a method and its corrector, and notes what they do with what they are given."""

    parts: Parts
    seen: dict[Site, Seen] = field(default_factory=dict)

    def check(self, sites: Sequence[Site], pattern: Pattern) -> None:
        self.parts.method.check(sites, pattern)

    def needs(self, site: Site) -> Any:
        return self.parts.method.needs(site)

    def asked(self, site: Site, pattern: Pattern) -> float:
        return self.parts.method.asked(site, pattern)

    def prune(self, layer: Layer, pattern: Pattern, stats: Stats) -> Pruned:
        given = {"the dense weight": layer.weight_OI, **states(stats)}
        copies = copy.deepcopy(given)
        pruned = self.parts.method.prune(layer, pattern, stats)
        kept = Pruned(pruned.weight_OI.clone(), pruned.keep_OI.clone(), dict(pruned.facts))
        self.seen[layer.site] = Seen(copies["the dense weight"], kept, kept.weight_OI, written(given, copies))
        return pruned

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Corrected:
        given = {"the dense weight": layer.weight_OI, "keep": pruned.keep_OI, **states(stats)}
        copies = copy.deepcopy(given)
        corrected = self.parts.corrector.correct(layer, pruned, stats)
        self.seen[layer.site].corrected_OI = corrected.weight_OI.clone()
        self.seen[layer.site].wrote += written(given, copies)
        return corrected


def states(stats: Stats) -> dict[str, Tensor]:
    """The tensors of the statistics, which other layers may share."""
    found = {}
    for tap, folded in stats.folded.items():
        state = folded.state if isinstance(folded.state, tuple) else (folded.state,)
        found |= {f"{tap}, {i}": part for i, part in enumerate(state) if isinstance(part, Tensor)}
    return found


def written(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> list[str]:
    return [name for name in now if not torch.equal(now[name], before[name])]


class WatchedStream(BlockStream):
    """Keeps the statistics that it handed out."""

    def observe(self, block: Any, needs: Any) -> dict[Site, Stats]:
        stats = super().observe(block, needs)
        self.__dict__.setdefault("given", {}).update(stats)
        return stats


@dataclass
class Walk:
    parts: Parts
    case: Case
    plan: Plan
    stream: BlockStream
    decoder: Decoder
    reports: list[LayerReport]
    seen: Mapping[Site, Seen]
    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]

    @property
    def layers(self) -> Iterator[tuple[LayerReport, Seen]]:
        for report in self.reports:
            yield report, self.seen[report.site]


def walk(parts: Parts, case: Case) -> Walk:
    model = copy.deepcopy(template(case))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decoder = Decoder(model)
    watch = Watch(parts)
    the_plan = plan(decoder, parts.method, parts.pattern, parts.corrector, layer_error=False)
    ids_BT = zoo.ids() if the_plan.last >= 0 else None  # as a run does: no text where none is needed
    stream = WatchedStream(decoder, ids_BT, batch_size=3, propagate=case.propagate, device=torch.device("cpu"))
    reports = list(prune(stream, dataclasses.replace(the_plan, method=watch, corrector=watch)))
    return Walk(parts, case, the_plan, stream, decoder, reports, watch.seen, before, model.state_dict())


# --- the contract -----------------------------------------------------------------------------------------------------


def at(method: Method, site: Site) -> Method:
    """The method that serves the site."""
    return at(method.at(site), site) if isinstance(method, Route) else method


def promised(parts: Parts, site: Site, keep_OI: Tensor) -> Iterator[tuple[Tensor, int]]:
    """The groups of weights (G, N) with one count each, and how many of the N the pattern removes.

    n-of-m: a group of m inputs. Unstructured: what the method declares its scores to be comparable in, `scope`, a row or the
    layer; cut into blocks of `width` inputs where it declares one. A successor keeps the counts of its base's rows and layer.
    """
    asked = parts.method.asked(site, parts.pattern)
    if asked == 0:
        yield keep_OI, 0
    elif parts.pattern.group:
        yield keep_OI.reshape(-1, parts.pattern.group), round(asked * parts.pattern.group)
    else:
        method = at(parts.method, site)
        width = getattr(method, "width", keep_OI.shape[1])
        while isinstance(method, Successor):
            method = at(method.base, site)
        scope = method.scope  # a method that asks for an unstructured mask says where its scores compare
        assert scope in ("row", "layer")
        for panel_OI in keep_OI.split(width, dim=1):
            groups_GN = panel_OI if scope == "row" else panel_OI.reshape(1, -1)
            yield groups_GN, math.floor(Fraction(str(asked)) * groups_GN.shape[1])


def counts_are_exact(w: Walk) -> None:
    for report, seen in w.layers:
        for keep_GN, removed in promised(w.parts, report.site, seen.pruned.keep_OI):
            found_G = (~keep_GN).sum(1)
            assert found_G.eq(removed).all(), (
                f"{report.site.name}: {removed} to remove of each group, {found_G.tolist()}"
            )
        assert (seen.pruned.keep_OI == report.keep_OI).all()


def asked_is_found(w: Walk) -> None:
    assert [report.site for report in w.reports] == list(w.decoder.sites)
    for report in w.reports:
        assert report.asked == w.parts.method.asked(report.site, w.parts.pattern)
        assert report.found == pytest.approx(report.asked, abs=1e-12)
        zeros = (w.decoder.layer(report.site).weight_OI == 0).sum().item()  # in the model itself, after the cast
        assert zeros == round(report.asked * report.keep_OI.numel())
        assert report.error is None


def removed_weights_are_zero(w: Walk) -> None:
    for report, seen in w.layers:
        for weight_OI in (seen.pruned.weight_OI, seen.corrected_OI, w.decoder.layer(report.site).weight_OI):
            assert weight_OI[~report.keep_OI].eq(0).all(), report.site.name


def survivors_are_the_dense_ones(w: Walk) -> None:
    """Survivors keep their dense values after a criterion, which only scores, without a corrector, and if nothing is removed."""
    for report, seen in w.layers:
        if isinstance(w.parts.method, Criterion) or report.asked == 0:
            keep_OI = report.keep_OI
            assert torch.equal(seen.pruned.weight_OI[keep_OI], seen.dense_OI[keep_OI]), report.site.name
        if isinstance(w.parts.corrector, NoCorrection):
            assert torch.equal(seen.corrected_OI, seen.pruned.weight_OI), report.site.name
        assert torch.equal(w.decoder.layer(report.site).weight_OI, seen.corrected_OI), report.site.name


def the_loss_never_rises(w: Walk) -> None:
    """By more than rounding: of the layer as the corrector found it, wherever a Gram matrix was folded to tell."""
    for report, seen in w.layers:
        given = w.stream.given[report.site].folded if w.plan.needs[report.site] else {}
        if GRAM in given:
            gram_II = given[GRAM].state.gram_II.double()
            before, after, whole = (
                layer_loss(gram_II, weight_OI.double() - seen.dense_OI.double()).item()
                for weight_OI in (seen.pruned.weight_OI, seen.corrected_OI, torch.zeros_like(seen.dense_OI))
            )
            assert after <= before * (1 + 1e-6) + 1e-12 * whole, f"{report.site.name}: {before} -> {after}"


def shapes_and_dtypes_are_kept(w: Walk) -> None:
    for report, seen in w.layers:
        for weight_OI in (seen.pruned.weight_OI, seen.corrected_OI):
            assert (weight_OI.shape, weight_OI.dtype) == (seen.dense_OI.shape, seen.dense_OI.dtype)
        assert (report.keep_OI.shape, report.keep_OI.dtype) == (seen.dense_OI.shape, torch.bool)
        assert report.shape == tuple(seen.dense_OI.shape)
    for name, tensor in w.before.items():
        assert (w.after[name].shape, w.after[name].dtype) == (tensor.shape, tensor.dtype), name


def nothing_else_is_touched(w: Walk) -> None:
    assert w.before.keys() == w.after.keys()
    pruned = {f"{report.site.name}.weight" for report in w.reports if report.asked}
    for name in w.before.keys() - pruned:  # norms, biases, embeddings, head
        assert torch.equal(w.before[name], w.after[name]), name
    assert pruned <= w.before.keys()
    assert {report.site: seen.wrote for report, seen in w.layers} == {report.site: [] for report in w.reports}


def numbers_are_finite(w: Walk) -> None:
    for name, tensor in w.after.items():
        assert tensor.isfinite().all(), name
    for report in w.reports:
        assert all(math.isfinite(fact) for fact in report.facts.values()), report.facts


def what_was_declared_was_read(w: Walk) -> None:
    """And nothing else: `Stats` refuses to be asked for that."""
    for site in w.decoder.sites:
        declared = {*w.parts.method.needs(site), *w.parts.corrector.needs(site)}
        assert {*w.plan.needs[site]} == declared
        if declared:
            assert {*w.stream.given[site].folded} == w.stream.given[site].read == declared, site.name
    if w.plan.last < 0:
        assert w.stream.forwards == 0


CHECKS: list[Callable[[Walk], None]] = [
    asked_is_found,
    counts_are_exact,
    removed_weights_are_zero,
    survivors_are_the_dense_ones,
    the_loss_never_rises,
    shapes_and_dtypes_are_kept,
    nothing_else_is_touched,
    numbers_are_finite,
    what_was_declared_was_read,
]


def components_are_frozen_values(parts: Parts, again: Parts) -> None:
    """`repr` is the configuration, equality is that of the configuration, and a run leaves nothing behind."""
    specs = [*vars(parts).values()]

    def picture() -> list[Any]:
        return [(repr(spec), hash(spec), copy.deepcopy(vars(spec))) for spec in specs]

    before = picture()
    walk(parts, CASES[0])
    assert picture() == before
    for spec, twin in zip(specs, vars(again).values(), strict=True):
        assert dataclasses.is_dataclass(spec)
        fields = [f.name for f in dataclasses.fields(spec)]
        assert [*vars(spec)] == fields
        for name in (*fields[:1], "a_new_one"):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(spec, name, 1)
        assert (repr(spec), hash(spec)) == (repr(twin), hash(twin))
        assert spec == twin


def runs_repeat(parts: Parts, again: Parts) -> None:
    """Bit for bit, whatever the global random state."""
    walks = []
    with torch.random.fork_rng(devices=[]):
        for seed, each in enumerate((parts, again)):
            torch.manual_seed(seed)
            walks.append(walk(each, CASES[0]))
    a, b = walks
    assert all(torch.equal(a.after[name], b.after[name]) for name in a.after)
    for one, other in zip(a.reports, b.reports, strict=True):
        assert torch.equal(one.keep_OI, other.keep_OI)
        assert one.facts == other.facts


def several_prune_what_one_prunes(parts: Parts, again: Parts) -> None:
    """Text and rows dealt out among two processes: the same masks and facts, the same weights up to rounding."""
    wide = Case("llama", torch.float64, "pruned")  # where the order of sums decides no comparison
    models = [copy.deepcopy(template(wide)) for _ in range(3)]

    def pruned(model: PreTrainedModel, each: Parts, processes: Processes) -> list[LayerReport]:
        decoder, cpu = Decoder(model), torch.device("cpu")
        the_plan = plan(decoder, each.method, each.pattern, each.corrector, layer_error=False)
        stream = BlockStream(decoder, zoo.ids(), batch_size=3, propagate="pruned", device=cpu, processes=processes)
        return list(prune(stream, the_plan))

    one = pruned(models[0], parts, ALONE)
    for reports in together(2, lambda processes: pruned(models[1 + processes.rank], again, processes)):
        for mine, report in zip(reports, one, strict=True):
            assert torch.equal(mine.keep_OI, report.keep_OI), report.site.name
            assert mine.facts == pytest.approx(report.facts, rel=1e-4, abs=1e-6), report.site.name
    for name, tensor in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], tensor, rtol=1e-6, atol=1e-6)
        assert torch.equal(models[1].state_dict()[name], models[2].state_dict()[name]), name


PAIR_CHECKS: list[Callable[[Parts, Parts], None]] = [
    components_are_frozen_values,
    runs_repeat,
    several_prune_what_one_prunes,
]


def planned(model: PreTrainedModel, make: Callable[[], Parts]) -> Plan:
    parts = make()
    return plan(Decoder(model), parts.method, parts.pattern, parts.corrector)


def refusal(make: Callable[[], Parts], reason: str) -> None:
    """Building or planning raises a `UserError` that says why, and no part of the model runs."""
    model = copy.deepcopy(template(CASES[0]))
    ran: list[Any] = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, args: ran.append(module))
    with pytest.raises(UserError, match=reason):
        planned(model, make)
    assert ran == []

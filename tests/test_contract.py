"""One contract grades every newcomer: each conf/method x conf/pattern x conf/corrector, so that a new yaml brings its own tests.

A combination that cannot be is refused, in `REFUSED`, before any forward pass. Every other one keeps all the promises in `CHECKS`.
The checks themselves are tested: PLANTED holds components that break one promise each.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

import architectures as zoo
import pytest
import torch
from test_conf import OPTIONS, chosen, compose
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, PreTrainedModel

from sparsity.core import Corrector, Criterion, Layer, Method, Pattern, Pruned, Scope, Site, Stats, Tap, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import LayerReport, Plan, plan, prune
from sparsity.methods import Magnitude, Wanda
from sparsity.models import Decoder
from sparsity.patterns import NofM, Unstructured
from sparsity.runs.build import build, check_targets, components
from sparsity.statistics import Gram, SquaredNorm
from sparsity.stream import BlockStream

AXES = ("method", "pattern", "corrector")
COMBINATIONS = list(itertools.product(*(OPTIONS[axis] for axis in AXES)))

# (method, pattern, corrector) -> why it cannot be, in words that the refusal's message holds
REFUSED: dict[tuple[str, str, str], str] = {}

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


shared = cache(assembled)  # they are values, so a walk can leave nothing behind for the next one


# --- a walk, watched --------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What went in and out of the components at one layer."""

    dense_OI: Tensor
    pruned: Pruned
    corrected_OI: Tensor
    wrote: list[str] = field(default_factory=list)  # the inputs that somebody wrote to


@dataclass
class Watch:
    """Stands in for a method and its corrector, and notes what they do with what they are given."""

    parts: Parts
    seen: dict[Site, Seen] = field(default_factory=dict)

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

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Tensor:
        given = {"the dense weight": layer.weight_OI, "keep": pruned.keep_OI, **states(stats)}
        copies = copy.deepcopy(given)
        corrected_OI = self.parts.corrector.correct(layer, pruned, stats)
        self.seen[layer.site].corrected_OI = corrected_OI.clone()
        self.seen[layer.site].wrote += written(given, copies)
        return corrected_OI


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


def promised(parts: Parts, site: Site, keep_OI: Tensor) -> Iterator[tuple[Tensor, int]]:
    """The groups of weights (G, N) with one count each, and how many of the N the pattern removes.

    n-of-m: a group of m inputs. Unstructured: what the method declares its scores to be comparable in, `scope`, a row or the
    layer; cut into blocks of `width` inputs where it declares one.
    """
    asked = parts.method.asked(site, parts.pattern)
    if asked == 0:
        yield keep_OI, 0
    elif parts.pattern.group:
        yield keep_OI.reshape(-1, parts.pattern.group), round(asked * parts.pattern.group)
    else:
        scope = parts.method.scope  # a method that asks for an unstructured mask says where its scores compare
        assert scope in ("row", "layer")
        for panel_OI in keep_OI.split(getattr(parts.method, "width", keep_OI.shape[1]), dim=1):
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
    """Of a criterion, which only scores; and of the model where nothing corrects it; and where nothing is removed."""
    for report, seen in w.layers:
        if isinstance(w.parts.method, Criterion) or report.asked == 0:
            keep_OI = report.keep_OI
            assert torch.equal(seen.pruned.weight_OI[keep_OI], seen.dense_OI[keep_OI]), report.site.name
        if isinstance(w.parts.corrector, NoCorrection):
            assert torch.equal(seen.corrected_OI, seen.pruned.weight_OI), report.site.name
        assert torch.equal(w.decoder.layer(report.site).weight_OI, seen.corrected_OI), report.site.name


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


PAIR_CHECKS: list[Callable[[Parts, Parts], None]] = [components_are_frozen_values, runs_repeat]


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


# --- everybody is graded ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_a_walk_keeps_the_contract(combination, case):
    if combination in REFUSED:
        refusal(lambda: assembled(combination), REFUSED[combination])
        return
    walked = walk(shared(combination), case)
    for check in CHECKS:
        check(walked)


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_components_are_values_and_runs_repeat(combination):
    if combination not in REFUSED:
        for check in PAIR_CHECKS:
            check(shared(combination), assembled(combination))


def test_what_is_refused_exists():
    assert {*REFUSED} <= {*COMBINATIONS}
    assert all(REFUSED.values())


@pytest.mark.parametrize("method", [name for name in OPTIONS["method"] if name != "dense"])
def test_a_pattern_that_does_not_fit_is_refused_before_any_forward_pass(method):
    parts = assembled((method, "2of4", "none"))
    refusal(lambda: dataclasses.replace(parts, pattern=NofM(2, 5)), r"q_proj has 32 inputs.*a multiple of 5")


def test_the_contract_walks_every_option():
    for axis in AXES:
        assert {combination[AXES.index(axis)] for combination in COMBINATIONS} == {*OPTIONS[axis]}
        for option in OPTIONS[axis]:
            written = components(chosen(axis, option))[axis]
            assert {*options(axis, option)} == {*written}
            assert options(axis, option)["_target_"] == written["_target_"]


# --- the checks can fail ----------------------------------------------------------------------------------------------

NORM, GRAM = Tap(SquaredNorm()), Tap(Gram())


@dataclass(frozen=True)
class Broken(Criterion):
    """Magnitude, until a subclass breaks one promise."""

    scope: Scope = "row"

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        return layer.weight_OI.abs()


class KeepsOneMore(Broken):
    def prune(self, layer, pattern, stats):
        keep_OI = pattern.keep(layer.weight_OI.abs(), self.scope)
        keep_OI.view(-1)[(~keep_OI).flatten().nonzero()[0]] = True
        return Pruned(layer.weight_OI * keep_OI, keep_OI)


class ComparesElsewhere(Broken):
    """Says row, compares in the layer: as many weights go, but not as many of each row."""

    def prune(self, layer, pattern, stats):
        return Magnitude("layer").prune(layer, pattern, stats)


class IgnoresItsBlocks(ComparesElsewhere):
    scope, width = "layer", WIDTH


class AsksForLess(Broken):
    def asked(self, site, pattern):
        return pattern.sparsity / 2


class LeavesRemovedWeights(Broken):
    def prune(self, layer, pattern, stats):
        return Pruned(layer.weight_OI, super().prune(layer, pattern, stats).keep_OI)


class ChangesSurvivors(Broken):
    def prune(self, layer, pattern, stats):
        pruned = super().prune(layer, pattern, stats)
        return Pruned(pruned.weight_OI * 1.01, pruned.keep_OI)


class WritesToTheDenseWeight(Broken):
    def score(self, layer, stats):
        return layer.weight_OI.mul_(1.01).abs()


class MasksWithNumbers(Broken):
    def prune(self, layer, pattern, stats):
        pruned = super().prune(layer, pattern, stats)
        return Pruned(pruned.weight_OI.double(), pruned.keep_OI)


class DeclaresWhatItDoesNotRead(Broken):
    def needs(self, site):
        return (NORM,)


class ReadsWhatItDidNotDeclare(DeclaresWhatItDoesNotRead):
    def score(self, layer, stats):
        return layer.weight_OI.abs() * stats[NORM].total_I * stats[GRAM].gram_II.diagonal()


class WritesToSharedStatistics(DeclaresWhatItDoesNotRead):
    def score(self, layer, stats):
        return layer.weight_OI.abs() * stats[NORM].total_I.mul_(2)


class ReportsNaN(Broken):
    def prune(self, layer, pattern, stats):
        return dataclasses.replace(super().prune(layer, pattern, stats), facts={"ratio": math.nan})


class Rolls(Broken):
    def score(self, layer, stats):
        return torch.rand_like(layer.weight_OI)


class Remembers(Broken):
    def score(self, layer, stats):
        self.__dict__["last"] = layer.site
        return super().score(layer, stats)


@dataclass(unsafe_hash=True)
class Counts:
    scope: Scope = "row"
    calls: int = 0

    def needs(self, site):
        return ()

    def asked(self, site, pattern):
        return pattern.sparsity

    def prune(self, layer, pattern, stats):
        self.calls += 1
        return Magnitude(self.scope).prune(layer, pattern, stats)


@dataclass(frozen=True)
class Loosely(Broken):
    """No two of them are equal."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class BrokenCorrector:
    def needs(self, site):
        return ()

    def correct(self, layer, pruned, stats):
        return layer.weight_OI  # the support grows


class DividesByZero(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return torch.where(pruned.keep_OI, pruned.weight_OI / 0, pruned.weight_OI)


class Widens(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return pruned.weight_OI.double()


class EditsKeep(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return pruned.weight_OI.masked_fill_(pruned.keep_OI.logical_not_(), 0)


class ZeroesSurvivors(BrokenCorrector):
    def correct(self, layer, pruned, stats):
        return torch.zeros_like(pruned.weight_OI)


class CorrectsNothingButChanges(NoCorrection):
    def correct(self, layer, pruned, stats):
        return pruned.weight_OI * 1.01


class ReadsNothing(BrokenCorrector):
    def needs(self, site):
        return (GRAM,)

    def correct(self, layer, pruned, stats):
        return pruned.weight_OI


GOOD = Wanda("row")
PLANTED: list[tuple[Callable[..., None], Any, Any]] = [
    (counts_are_exact, KeepsOneMore(), NoCorrection()),
    (counts_are_exact, ComparesElsewhere(), NoCorrection()),
    (counts_are_exact, IgnoresItsBlocks(), NoCorrection()),
    (asked_is_found, KeepsOneMore(), NoCorrection()),
    (asked_is_found, AsksForLess(), NoCorrection()),
    (asked_is_found, GOOD, BrokenCorrector()),
    (asked_is_found, GOOD, ZeroesSurvivors()),
    (removed_weights_are_zero, LeavesRemovedWeights(), NoCorrection()),
    (removed_weights_are_zero, GOOD, BrokenCorrector()),
    (survivors_are_the_dense_ones, ChangesSurvivors(), NoCorrection()),
    (survivors_are_the_dense_ones, GOOD, CorrectsNothingButChanges()),
    (shapes_and_dtypes_are_kept, MasksWithNumbers(), NoCorrection()),
    (shapes_and_dtypes_are_kept, GOOD, Widens()),
    (nothing_else_is_touched, WritesToTheDenseWeight(), NoCorrection()),
    (nothing_else_is_touched, WritesToSharedStatistics(), NoCorrection()),
    (nothing_else_is_touched, GOOD, EditsKeep()),
    (numbers_are_finite, GOOD, DividesByZero()),
    (numbers_are_finite, ReportsNaN(), NoCorrection()),
    (what_was_declared_was_read, DeclaresWhatItDoesNotRead(), NoCorrection()),
    (what_was_declared_was_read, ReadsWhatItDidNotDeclare(), NoCorrection()),
    (what_was_declared_was_read, GOOD, ReadsNothing()),
    (components_are_frozen_values, Counts(), NoCorrection()),
    (components_are_frozen_values, Remembers(), NoCorrection()),
    (components_are_frozen_values, Loosely(), NoCorrection()),
    (runs_repeat, Rolls(), NoCorrection()),
]


@pytest.mark.parametrize(
    "check,method,corrector", PLANTED, ids=lambda value: getattr(value, "__name__", type(value).__name__)
)
def test_a_planted_breach_is_caught(check, method, corrector):
    parts = Parts(method, Unstructured(SPARSITY), corrector)

    def grade() -> None:
        if check in PAIR_CHECKS:
            check(parts, copy.deepcopy(parts))
        else:
            check(walk(parts, CASES[1]))  # `dense`: no later block stumbles over what an earlier one became

    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception)):
        grade()


def test_every_check_has_a_planted_breach():
    assert {check for check, _, _ in PLANTED} == {*CHECKS, *PAIR_CHECKS}


def test_a_refusal_that_comes_late_or_for_another_reason_is_caught():
    parts = Parts(GOOD, NofM(2, 5), NoCorrection())
    refusal(lambda: parts, "a multiple of 5")
    with pytest.raises(AssertionError):
        refusal(lambda: parts, "another reason")
    with pytest.raises(pytest.fail.Exception):
        refusal(lambda: Parts(GOOD, NofM(2, 4), NoCorrection()), "a multiple of 4")

"""A refinement lowers a block's error on text that it was not tuned on, moves nothing but survivors, and finds the optimum where
that is known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from commands import SMALL, UNMEASURED, command, run
from torch import nn

from sparsity.core import Site, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import plan, prune_block
from sparsity.methods import Magnitude, Wanda
from sparsity.models import Block, Decoder
from sparsity.models.blocks import Linear
from sparsity.models.decoder import Call
from sparsity.patterns import NofM, Unstructured
from sparsity.refine import BlockTuning
from sparsity.stream import BlockStream, Passage

CPU = torch.device("cpu")
TUNING = BlockTuning(6, 0.003, 0.2, 6, 0, "dense")
NAMES = ["llama", "gpt2", "opt", "gemma2"]


def refined(name, refinement=TUNING, pattern=None, propagate="pruned", dtype=torch.float32, method=None):
    """The decoder, and what the refinement said of each block."""
    decoder = Decoder(zoo.build(CONFIGS[name](), dtype))
    pattern = pattern or Unstructured(0.5)
    the_plan = plan(decoder, method or Wanda("row"), pattern, NoCorrection(), refinement=refinement)
    stream = BlockStream(decoder, zoo.ids(10), batch_size=2, propagate=propagate, device=CPU, target=refinement.target)
    facts, keeps = [], {}
    for block in stream.blocks:
        walk = prune_block(stream, the_plan, block)
        while True:
            try:
                report = next(walk)
                keeps[report.site] = report.keep_OI
            except StopIteration as end:
                facts.append(end.value)
                break
    return decoder, facts, keeps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("propagate", ["pruned", "dense"])
def test_the_error_falls_on_text_that_was_not_tuned_on(name, propagate):
    _, facts, _ = refined(name, propagate=propagate)
    for of_block in facts:
        assert of_block["held_out"] < of_block["held_out_before"]
        assert of_block["error"] < of_block["error_before"]
        assert of_block["kept_epoch"] >= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", [Unstructured(0.6), NofM(2, 4)], ids=str)
def test_only_survivors_move(name, pattern):
    dense = Decoder(zoo.build(CONFIGS[name]()))
    before = {key: tensor.clone() for key, tensor in dense.model.state_dict().items()}
    decoder, _, keeps = refined(name, pattern=pattern)
    moved = 0
    for site, keep_OI in keeps.items():
        weight_OI = decoder.layer(site).weight_OI
        assert weight_OI[~keep_OI].eq(0).all(), site.name
        moved += int((weight_OI[keep_OI] != dense.layer(site).weight_OI[keep_OI]).sum())
    assert moved > 0.9 * sum(int(keep_OI.sum()) for keep_OI in keeps.values())
    pruned = {f"{site.name}.weight" for site in keeps}
    for key, tensor in decoder.model.state_dict().items():
        assert key in pruned or torch.equal(tensor, before[key]), key
    assert all(parameter.grad is None for parameter in decoder.model.parameters())


def test_a_narrow_model_keeps_its_dtype_and_is_tuned_in_float32():
    """A step is smaller than bfloat16 can tell, so most weights would stay where they are; many steps together are not."""
    step = 1e-4
    untouched, _, _ = refined("llama", replace(TUNING, lr=1e-12), dtype=torch.bfloat16)
    decoder, facts, keeps = refined("llama", replace(TUNING, lr=step), dtype=torch.bfloat16)
    assert {p.dtype for p in decoder.model.parameters()} == {torch.bfloat16}
    assert all(of_block["held_out"] < of_block["held_out_before"] for of_block in facts)
    moved = coarse = survivors = 0
    for site, keep_OI in keeps.items():
        weight_OI, before_OI = decoder.layer(site).weight_OI, untouched.layer(site).weight_OI
        assert weight_OI[~keep_OI].eq(0).all()
        if site.block == 0:
            survivors += int(keep_OI.sum())
            moved += int((weight_OI != before_OI).sum())
            coarse += int(((before_OI + step == before_OI) & keep_OI).sum())
    assert coarse > 0.8 * survivors
    assert moved > 0.6 * survivors, (moved, coarse, survivors)


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
def test_the_dense_block_has_nothing_to_gain(propagate):
    """Its error is zero, no epoch is better, and the weights stay as they are to the last bit."""
    dense = Decoder(zoo.build(CONFIGS["llama"]()))
    decoder, facts, _ = refined("llama", pattern=Unstructured(1e-9), propagate=propagate)
    assert decoder.fingerprint() == dense.fingerprint()
    assert {of_block["kept_epoch"] for of_block in facts} == {0.0}
    assert {of_block["error"] for of_block in facts} == {0.0}


def test_where_nothing_is_pruned_nothing_is_tuned():
    _, facts, _ = refined("llama", pattern=Unstructured(0.0))
    assert not any(facts)


def test_targets_are_the_dense_models_own_states_or_what_the_dense_block_makes_of_the_inputs():
    ids_BT = zoo.ids(4)
    dense = Decoder(zoo.build(CONFIGS["llama"]()))
    plain = BlockStream(dense, ids_BT, batch_size=2, propagate="pruned", device=CPU)
    for target in ("dense", "own"):
        decoder = Decoder(zoo.build(CONFIGS["llama"]()))
        stream = BlockStream(decoder, ids_BT, batch_size=2, propagate="pruned", device=CPU, target=target)
        states = [*plain.hidden]
        for block, original in zip(stream.blocks, dense.blocks, strict=True):
            stream.observe(block, {})
            passage = stream.passage(block)
            inputs = states if target == "dense" else [x_BTI.clone() for x_BTI in passage.inputs]
            with torch.no_grad():
                expected = [call(original.module, x) for call, x in zip(passage.calls, inputs, strict=True)]
            assert all(torch.equal(a, b) for a, b in zip(passage.targets, expected, strict=True))
            assert all(torch.equal(a, b) for a, b in zip(passage.sources, inputs, strict=True))
            for site in block.linears:
                block.write(site, block.layer(site).weight_OI * 0.9)
            states = expected
            stream.advance(block)


def test_what_is_carried_can_be_put_back():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    a, b = (
        BlockStream(decoder, zoo.ids(4), batch_size=2, propagate="pruned", device=CPU, target="dense") for _ in range(2)
    )
    first, second = decoder.blocks[:2]
    a.observe(first, {})
    for site in first.linears:
        first.write(site, first.layer(site).weight_OI * 0.5)
    a.advance(first)
    b.carry(state_BTI.clone() for state_BTI in a.carried())
    assert len([*a.carried()]) == 4  # two batches, pruned and dense
    for stream in (a, b):
        stream.observe(second, {})
    for mine, theirs in zip(a.passage(second), b.passage(second), strict=True):
        if isinstance(mine[0], torch.Tensor):
            assert all(torch.equal(x, y) for x, y in zip(mine, theirs, strict=True))


# --- one layer, where the optimum is known ----------------------------------------------------------------------------


class Residual(nn.Module):
    """x + x W'."""

    def __init__(self, weight_OI: torch.Tensor):
        super().__init__()
        self.lin = nn.Linear(*weight_OI.shape[::-1], bias=False)
        self.lin.weight = nn.Parameter(weight_OI.clone())

    def forward(self, x_BTI: torch.Tensor) -> torch.Tensor:
        return x_BTI + self.lin(x_BTI)


def alone(inputs: int = 6) -> tuple[Block, Passage, Site, torch.Tensor]:
    """A block of one layer of which half is removed, on 4 batches; the last of them like the others."""
    g = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(inputs, inputs, generator=g)
    mixing_II = torch.randn(inputs, inputs, generator=g)
    states = [torch.randn(2, 16, inputs, generator=g) @ mixing_II for _ in range(4)]
    module, site = Residual(weight_OI), Site(0, "b.lin", "mlp")
    block = Block(0, "b", module, {site: Linear(module.lin, transposed=False)})
    with torch.no_grad():
        passage = Passage([Call((), {})] * 4, states, [module(x) for x in states], states)
    keep_OI = torch.rand(inputs, inputs, generator=g) < 0.5
    block.write(site, weight_OI * keep_OI)
    return block, passage, site, keep_OI


def test_of_one_layer_it_finds_the_exact_refit():
    """Every row's least squares over its survivors: what the corrector `optimal` aims at, without damping."""
    block, passage, site, keep_OI = alone()
    x_NI = torch.cat(passage.inputs).flatten(0, 1).double()
    lost_NO = torch.cat([y - x for x, y in zip(passage.sources, passage.targets, strict=True)]).flatten(0, 1).double()
    facts = BlockTuning(600, 0.05, 0, 600, 0, "dense").refine(block, passage, {site: keep_OI})
    found_OI = block.layer(site).weight_OI
    for row, keep_I in enumerate(keep_OI):
        best_S = torch.linalg.lstsq(x_NI[:, keep_I], lost_NO[:, row]).solution
        torch.testing.assert_close(found_OI[row, keep_I].double(), best_S, rtol=1e-3, atol=1e-3)
    rest = (x_NI @ found_OI.double().T - lost_NO).square().sum() / lost_NO.square().sum()
    assert facts["error"] == pytest.approx(rest.sqrt().item(), rel=1e-3)
    assert "held_out" not in facts


def test_what_gets_worse_elsewhere_is_not_kept():
    """The held-out batch wants the opposite of the others: every epoch is worse there, so the given weights stay, and it stops."""
    block, passage, site, keep_OI = alone()
    given_OI = block.layer(site).weight_OI.clone()
    with torch.no_grad():
        passage.targets[3].copy_(
            passage.inputs[3] + passage.inputs[3] @ (given_OI - (passage_gain(passage, given_OI))).T
        )
    facts = BlockTuning(50, 0.01, 0.25, 3, 0, "dense").refine(block, passage, {site: keep_OI})
    assert torch.equal(block.layer(site).weight_OI, given_OI)
    assert (facts["epochs"], facts["kept_epoch"]) == (3.0, 0.0)
    assert facts["held_out"] == facts["held_out_before"]


def passage_gain(passage: Passage, given_OI: torch.Tensor) -> torch.Tensor:
    """The change of the weight that the tuned batches ask for, also at removed weights."""
    x_NI = torch.cat(passage.inputs[:3]).flatten(0, 1)
    wanted_NO = torch.cat([y - x for x, y in zip(passage.inputs[:3], passage.targets[:3], strict=True)]).flatten(0, 1)
    return torch.linalg.lstsq(x_NI, wanted_NO).solution.T - given_OI


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def words(work) -> tuple[str, ...]:
    return (
        UNMEASURED,
        "refine=block",
        "calibration.batch_size=1",
        "refine.held_out=0.25",
        "refine.epochs=3",
        "save=true",
    )


def test_a_run_writes_a_row_for_every_block(words):
    found = run(*words, into="a")
    rows = [line.split(",") for line in (Path("a") / "blocks.csv").read_text().splitlines()]
    assert rows[0][:3] == ["block", "error_before", "error"]
    assert len(rows) == 3
    assert found.result["blocks"]["refined"] == 2
    assert found.result["blocks"]["held_out_mean"] <= found.result["blocks"]["held_out_before_mean"]
    assert found.result["seconds"]["refine"] > 0
    assert found.result["sparsity"]["found"] == pytest.approx(0.5, abs=1e-3)


def test_the_same_seed_gives_the_same_bits_and_dense_propagation_is_refined_too(words):
    a, b = run(*words, into="a"), run(*words, into="b")
    c = run(*words, "calibration.propagate=dense", into="c")
    assert all(torch.equal(weight, b.weights[name]) for name, weight in a.weights.items())
    assert c.result["blocks"]["refined"] == 2


def test_no_method_needs_statistics_for_a_block_to_be_tuned(words):
    assert run(*words, "method=magnitude", into="a").result["blocks"]["refined"] == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("refine.epochs=0", "refine.epochs=0 is not valid: expected a whole number >= 1, such as 8"),
        ("refine.lr=0", "lr=0"),
        ("refine.held_out=1", "held_out=1"),
        ("refine.patience=0", "patience=0"),
        ("refine.target=other", "refine.target=other"),
        ("calibration.batch_size=4", "leaves none to tune on"),
    ],
)
def test_mistakes_are_named(change, reason, words):
    kept = [word for word in words if word.partition("=")[0] != change.partition("=")[0]]
    ended = command(*SMALL, *kept, change)
    assert ended.status == 1
    assert reason in ended.err


def test_the_rate_rises_falls_and_ends():
    from sparsity.tuning import _share_of_rate

    rates = [_share_of_rate(step, 40) for step in range(40)]
    assert max(rates) == 1.0
    assert rates[0] == 0.25
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert all(math.isfinite(_share_of_rate(0, steps)) for steps in (1, 2))


def test_a_stream_without_a_target_says_so():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    stream = BlockStream(decoder, zoo.ids(2), batch_size=2, propagate="pruned", device=CPU)
    with pytest.raises(ValueError, match="nothing was kept to match"):
        stream.passage(decoder.blocks[0])


def test_ranges_are_checked_in_the_library_too():
    with pytest.raises(UserError, match="epochs=0"):
        BlockTuning(0, 0.001, 0.1, 1, 0, "dense")
    assert (
        plan(Decoder(zoo.build(CONFIGS["llama"]())), Magnitude("layer"), Unstructured(0.5), NoCorrection()).last == -1
    )

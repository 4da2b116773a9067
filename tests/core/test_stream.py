"""The walk is the model, block by block, bit for bit; statistics are of what each layer really saw, with no pass too many."""

from __future__ import annotations

from itertools import pairwise

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS, LINEARS
from problems import GRAM, NORM
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from sparsity.core import Tap, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import plan, prune
from sparsity.methods import Dense, Magnitude, SparseGPT, Wanda
from sparsity.models import Decoder
from sparsity.models.blocks import Block, Linear
from sparsity.patterns import NofM, Unstructured
from sparsity.statistics import Gram, SquaredNorm
from sparsity.stream import BlockStream, _Fold

HALF, NONE, CPU = Unstructured(0.5), NoCorrection(), torch.device("cpu")


def walk(decoder: Decoder, s: BlockStream, method=None, pattern=HALF, layer_error="auto"):
    method = method or Dense()
    return list(prune(s, plan(decoder, method, pattern, NONE, layer_error=layer_error)))


def block_outputs(decoder: Decoder, ids_BT) -> list[torch.Tensor]:
    """The output of every block in the model's own forward pass."""
    seen: list[torch.Tensor] = []

    def hook(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.module.register_forward_hook(hook) for block in decoder.blocks]
    decoder.model(input_ids=ids_BT, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


# --- architectures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_walking_the_blocks_is_the_model(name, dtype):
    decoder = Decoder(zoo.build(CONFIGS[name](), dtype))
    s = zoo.stream(decoder)
    batches = zoo.ids().split(2)
    expected = [block_outputs(decoder, ids_BT) for ids_BT in batches]
    for block in s.blocks:
        s.advance(block)
        for hidden_BTI, outputs in zip(s.hidden, expected, strict=True):
            assert torch.equal(hidden_BTI, outputs[block.index]), block.name
    for ids_BT, hidden_BTI in zip(batches, s.hidden, strict=True):
        logits_BTV = decoder.model(input_ids=ids_BT).logits
        assert torch.equal(decoder.head(ids_BT, hidden_BTI), logits_BTV)
        assert torch.equal(next(decoder.hidden_of([ids_BT])), hidden_BTI)
        some_BTV = decoder.head(ids_BT[:, 3:5], hidden_BTI[:, 3:5])  # position by position
        torch.testing.assert_close(some_BTV, logits_BTV[:, 3:5])
        assert torch.equal(decoder.logits(ids_BT), logits_BTV)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fingerprint_is_that_of_every_parameter_from_end_to_end(name):
    decoder = Decoder(zoo.build(CONFIGS[name]()))
    before = decoder.fingerprint()
    for parameter_name, parameter in decoder.model.named_parameters():
        numbers = parameter.data.view(-1)
        for at in (0, -1):
            was = numbers[at].item()
            numbers[at] += 1
            assert decoder.fingerprint() != before, parameter_name
            numbers[at] = was
    assert decoder.fingerprint() == before


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("propagate", ["pruned", "dense"])
def test_the_dense_method_leaves_the_model_and_walks_it(name, propagate):
    decoder = Decoder(zoo.build(CONFIGS[name]()))
    before = decoder.fingerprint()
    s = zoo.stream(decoder, propagate=propagate)
    reports = walk(decoder, s, Dense(), layer_error=True)
    assert decoder.fingerprint() == before
    assert [report.error for report in reports] == [0.0] * len(decoder.sites)
    expected = [block_outputs(decoder, ids_BT)[-2] for ids_BT in zoo.ids().split(2)]
    for hidden_BTI, output_BTI in zip(s.hidden, expected, strict=True):  # in front of the last block
        assert torch.equal(hidden_BTI, output_BTI)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("method", [Magnitude("layer"), Wanda("row"), SparseGPT("layer", 0.01, 128)])
def test_pruning_reaches_every_linear_layer_of_every_block(name, method):
    decoder = Decoder(zoo.build(CONFIGS[name]()))
    reports = walk(decoder, zoo.stream(decoder), method)
    assert len(reports) == 3 * LINEARS[name]
    modules = [m for block in decoder.blocks for m in block.module.modules()]
    linears = [m for m in modules if isinstance(m, nn.Linear | Conv1D)]  # Falcon's is a subclass
    assert len(linears) == len(reports)
    for linear in linears:
        assert (linear.weight == 0).sum() * 2 == linear.weight.numel()
    for block in decoder.blocks:
        roles = {site.leaf: site.role for site in block.linears}
        assert set(roles.values()) == {"attention", "mlp"}
        assert sum(role == "mlp" for role in roles.values()) == (3 if LINEARS[name] == 7 else 2)
    assert decoder.unpruned == {}


def test_conv1d_is_seen_as_outputs_by_inputs():
    decoder = Decoder(zoo.build(CONFIGS["gpt2"]()))
    shapes = {site.leaf: tuple(decoder.layer(site).weight_OI.shape) for site in decoder.sites if site.role == "mlp"}
    assert shapes == {"c_fc": (128, 32), "c_proj": (32, 128)}
    walk(decoder, zoo.stream(decoder), Wanda("row"), NofM(2, 4))
    weight_IO = decoder.blocks[1].module.mlp.c_fc.weight  # stored (inputs, outputs)
    assert (weight_IO.T.reshape(-1, 4) != 0).sum(1).tolist() == [2] * (weight_IO.numel() // 4)


def test_sliding_windows_give_blocks_different_calls():
    """The first block's call replayed to all would be wrong: the configurations of the walk tests really differ by block."""
    for name in ("qwen2", "qwen3", "gemma2", "gemma3"):
        decoder = Decoder(zoo.build(CONFIGS[name]()))
        _, calls = decoder.record(zoo.ids())
        attended = [call.kwargs["attention_mask"] for call in calls]
        assert any(a is None or b is None or not torch.equal(a, b) for a, b in pairwise(attended)), name


def test_a_mixture_of_experts_says_what_it_does_not_prune():
    decoder = Decoder(zoo.build(zoo.mixtral()))
    assert decoder.unpruned["model.layers.1.mlp.experts.gate_up_proj"] == (4, 128, 32)
    assert {site.leaf for site in decoder.sites} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert len(decoder.unpruned) == 3 * 3  # router and two expert tensors a block
    assert len(walk(decoder, zoo.stream(decoder), Wanda("row"))) == 12


def test_a_model_without_one_list_of_blocks_is_refused_with_what_was_found():
    model = zoo.build(CONFIGS["llama"]())
    model.config.num_hidden_layers = 5
    with pytest.raises(UserError, match=r"one list of 5 decoder blocks.*model\.layers \(3 x LlamaDecoderLayer\)"):
        Decoder(model)


def test_a_model_that_repeats_a_block_is_refused():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    decoder.model.model.layers[2] = decoder.model.model.layers[1]
    with pytest.raises(UserError, match="order"):
        decoder.record(zoo.ids())


def test_recording_leaves_no_trace():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    expected = decoder.logits(zoo.ids())
    decoder.record(zoo.ids())
    assert torch.equal(decoder.logits(zoo.ids()), expected)
    assert not any("forward" in vars(block.module) for block in decoder.blocks)


# --- what is observed -------------------------------------------------------------------------------------------------


def inputs_of(decoder: Decoder, name: str, ids_BT) -> torch.Tensor:
    seen = []
    module = decoder.model.get_submodule(name)
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    decoder.model(input_ids=ids_BT)
    handle.remove()
    return seen[0].flatten(0, -2)  # OPT flattens its MLP inputs itself


@pytest.mark.parametrize("name", CONFIGS)
def test_statistics_are_those_of_the_models_own_inputs(name):
    decoder = Decoder(zoo.build(CONFIGS[name]()))
    s = zoo.stream(decoder)
    for block in s.blocks:
        stats = s.observe(block, {site: (GRAM, NORM) for site in block.linears})
        for site in block.linears:
            x_NI = inputs_of(decoder, site.name, zoo.ids())
            assert stats[site][GRAM].tokens == stats[site][NORM].tokens == 5 * zoo.TOKENS
            assert_close(stats[site][GRAM].gram_II, x_NI.T @ x_NI, rtol=1e-4, atol=1e-4)
            assert_close(stats[site][NORM].total_I, x_NI.double().square().sum(0), rtol=1e-5, atol=1e-5)
        s.advance(block)


def test_layers_that_see_one_tensor_share_one_fold():
    adds = []

    class Counting(Gram):
        def add(self, state, x_BTI, labels_BT=None):
            adds.append(x_BTI)
            return super().add(state, x_BTI)

    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    s = zoo.stream(decoder)
    block, tap = s.blocks[0], Tap(Counting())
    stats = s.observe(block, {site: (tap,) for site in block.linears})
    assert len(adds) == 3 * 4  # 3 batches x {q k v, o, gate up, down}
    by_leaf = {site.leaf: stats[site].folded[tap] for site in block.linears}
    assert by_leaf["q_proj"] is by_leaf["k_proj"] is by_leaf["v_proj"]
    assert by_leaf["gate_proj"] is by_leaf["up_proj"]
    assert len({id(folded) for folded in by_leaf.values()}) == 4


@pytest.mark.parametrize(
    ("method", "layer_error", "propagate", "passes"),
    [
        (Magnitude("layer"), "auto", "pruned", [0, 0, 0]),  # nothing is needed: no pass at all
        (Magnitude("layer"), True, "pruned", [2, 2, 1]),
        (Wanda("row"), "auto", "pruned", [2, 2, 1]),  # observe and advance; behind the last block nobody looks
        (Wanda("row"), "auto", "dense", [1, 1, 1]),
        (SparseGPT("layer", 0.01, 128), "auto", "dense", [1, 1, 1]),
    ],
)
def test_no_pass_too_many(method, layer_error, propagate, passes):
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    s, run = zoo.stream(decoder, propagate=propagate), []
    for block in decoder.blocks:
        counts = run.append([0]) or run[-1]
        block.module.register_forward_pre_hook(lambda *_, counts=counts: counts.__setitem__(0, counts[0] + 1))
    walk(decoder, s, method, layer_error=layer_error)
    assert [counts[0] for counts in run] == [3 * n for n in passes]  # 3 batches
    assert s.forwards == 3 * sum(passes)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("propagate", "finished"),
    [("pruned", 1), ("dense", 3)],  # of 3 batches; the outputs of `dense` go on to the next block
)
def test_an_observing_pass_ends_at_the_last_input_that_is_asked_for(name, propagate, finished):
    found = {}
    for which in ("asked", "whole"):
        decoder = Decoder(zoo.build(CONFIGS[name]()))
        s, ends = zoo.stream(decoder, propagate=propagate), []
        block = s.blocks[1]
        s.advance(s.blocks[0])
        if which == "whole":
            s.target = "own"  # a refinement needs the outputs
        block.module.register_forward_hook(lambda *_, ends=ends: ends.append(1))
        stats = s.observe(block, {site: (GRAM, NORM) for site in block.linears})
        assert len(ends) == (finished if which == "asked" else 3)
        found[which] = {site.name: (known[GRAM].gram_II, known[NORM].total_I) for site, known in stats.items()}
    for site, known in found["asked"].items():
        assert all(torch.equal(a, b) for a, b in zip(known, found["whole"][site], strict=True)), site


def test_a_module_that_a_block_calls_twice_is_seen_twice_in_every_batch():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    s = zoo.stream(decoder)
    block = s.blocks[0]
    mlp = block.module.mlp
    inner = mlp.forward
    mlp.forward = lambda x_BTI: inner(x_BTI) + inner(2 * x_BTI)
    stats = s.observe(block, {site: (NORM,) for site in block.linears})
    for site in block.linears:
        assert stats[site][NORM].tokens == (2 if site.role == "mlp" else 1) * 5 * zoo.TOKENS, site


def test_pruned_blocks_feed_the_next_unless_propagate_is_dense():
    grams = {}
    for propagate in ("pruned", "dense"):
        decoder = Decoder(zoo.build(CONFIGS["llama"]()))
        dense_NI = inputs_of(decoder, decoder.sites[7].name, zoo.ids())
        s, seen = zoo.stream(decoder, propagate=propagate), {}
        observe = s.observe

        def spy(block, needs, observe=observe, seen=seen):
            stats = observe(block, needs)
            seen.update({site: known[NORM].total_I.clone() for site, known in stats.items()})
            return stats

        s.observe = spy
        walk(decoder, s, Wanda("row"))
        pruned_NI = inputs_of(decoder, decoder.sites[7].name, zoo.ids())
        grams[propagate] = seen[decoder.sites[7]]
        expected_NI = {"dense": dense_NI, "pruned": pruned_NI}[propagate]
        assert_close(grams[propagate], expected_NI.double().square().sum(0), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(grams["pruned"], grams["dense"], rtol=1e-2)


def test_the_batch_size_is_a_matter_of_memory_only():
    found = []
    for batch_size in (1, 2, 5, 100):
        decoder = Decoder(zoo.build(CONFIGS["gemma2"]()))
        found.append(
            [report.keep_OI for report in walk(decoder, zoo.stream(decoder, batch_size=batch_size), Wanda("row"))]
        )
    for others in found[1:]:
        differing = sum(int((a != b).sum()) for a, b in zip(found[0], others, strict=True))
        assert differing <= 0.001 * sum(a.numel() for a in found[0])  # ties within rounding


def test_the_relative_error_is_that_of_the_layers_output():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    site = decoder.sites[5]
    x_NI, dense_OI = inputs_of(decoder, site.name, zoo.ids()), decoder.layer(site).weight_OI.clone()
    reports = walk(decoder, zoo.stream(decoder, propagate="dense"), Magnitude("layer"), layer_error=True)
    after_OI = decoder.layer(site).weight_OI
    expected = (x_NI @ (after_OI - dense_OI).T).norm() / (x_NI @ dense_OI.T).norm()
    assert reports[5].error == pytest.approx(expected.item(), rel=1e-4)
    assert all(report.error is None for report in walk(decoder, zoo.stream(decoder), Wanda("row")))
    assert all(
        r.error is None for r in walk(decoder, zoo.stream(decoder), SparseGPT("layer", 0.01, 128), layer_error=False)
    )


# --- layers that some batches skip, or see twice ----------------------------------------------------------------------


def fold_by_hand(rounds: list[dict[str, list[torch.Tensor]]]) -> dict[str, tuple[float, int]]:
    """Folds what layers `a`, `b`, `c` saw in each batch; equal list objects' tensors are the same tensor."""
    module = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in "abc"})
    from sparsity.core import Site

    linears = {Site(0, name, "mlp"): Linear(module[name], False) for name in "abc"}
    fold = _Fold(Block(0, "block", module, linears), {site: (NORM,) for site in linears})
    by_name = {site.name: site for site in linears}
    for seen in rounds:
        fold.seen = {(name, "input"): tensors for name, tensors in seen.items()}
        fold.batch((1, 1), {})
    stats = fold.stats()
    return {name: (stats[site][NORM].total_I.item(), stats[site][NORM].tokens) for name, site in by_name.items()}


def token(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1), value)


def test_a_layer_that_some_batches_skip():
    x, y = token(1.0), token(2.0)
    assert fold_by_hand([{"a": [x], "b": [x], "c": [x]}, {"a": [y], "b": [y]}]) == {
        "a": (5, 2),
        "b": (5, 2),
        "c": (1, 1),
    }


def test_layers_that_part_company_and_meet_again():
    x, y, z, w = map(token, (1.0, 2.0, 3.0, 4.0))
    rounds = [{"a": [x], "b": [x], "c": [x]}, {"a": [y], "b": [z], "c": [y]}, {"a": [w], "b": [w], "c": [w]}]
    assert fold_by_hand(rounds) == {"a": (21, 3), "b": (26, 3), "c": (21, 3)}


def test_sharing_a_tensor_late_does_not_share_the_past():
    x, y = token(1.0), token(2.0)
    assert fold_by_hand([{"a": [x]}, {"a": [y], "b": [y], "c": [y]}]) == {"a": (5, 2), "b": (4, 1), "c": (4, 1)}


def test_a_layer_that_is_called_twice_in_a_batch_saw_both():
    x, y = token(1.0), token(2.0)
    assert fold_by_hand([{"a": [x, y], "b": [y], "c": [x, y]}]) == {"a": (5, 2), "b": (4, 1), "c": (5, 2)}


def test_a_layer_that_saw_nothing_is_named():
    with pytest.raises(UserError, match="c saw no calibration token"):
        fold_by_hand([{"a": [token(1.0)], "b": [token(1.0)]}])


# --- numbers that are none --------------------------------------------------------------------------------------------


def test_infinite_weights_are_named_before_any_block_runs():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    decoder.model.model.layers[1].mlp.up_proj.weight[3, 4] = torch.inf
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: the weights hold NaN or infinity"):
        plan(decoder, Wanda("row"), HALF, NONE)


def test_activations_that_overflow_are_named():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    s = zoo.stream(decoder)
    decoder.model.model.layers[1].mlp.up_proj.weight.fill_(torch.finfo(torch.float32).max)
    s.advance(decoder.blocks[0])
    block = decoder.blocks[1]
    with pytest.raises(UserError, match=r"model\.layers\.1: its output holds NaN or infinity"):
        s.observe(block, {site: (Tap(SquaredNorm()),) for site in block.linears})


def test_a_pattern_that_does_not_fit_is_refused_before_any_block_runs():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.q_proj has 32 inputs.*multiple of 5"):
        plan(decoder, Wanda("row"), NofM(2, 5), NONE)
    plan(decoder, Dense(), NofM(2, 5), NONE)  # which removes nothing, and so fits

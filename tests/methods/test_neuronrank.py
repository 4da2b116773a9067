"""NeuronRank's scores against its definition, one weight at a time, and where its factor changes what survives."""

from __future__ import annotations

import dataclasses
import logging
import math
from functools import cache

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from checkpoints import tiny
from composing import assembled
from torch import Tensor, nn
from torch.testing import assert_close

from sparsity.core import Site, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import LayerReport, plan, prune, select
from sparsity.methods import Magnitude, NeuronRank, NeuronRankOld, TfIdf, Wanda
from sparsity.models import Decoder
from sparsity.patterns import NofM, Unstructured

HALF, NONE = Unstructured(0.5), NoCorrection()
DOC = TfIdf(1.0, 1.0, 1.5, 0.0, 0.6, True, None, 32, "hidden", 0)
ODD = TfIdf(0.9, 0.8, 1.5, 0.7, 0.7, True, None, 32, "hidden", 0)  # no exponent is 0 or 1
OLD = NeuronRankOld("layer", 1.0, 1.0, 1.0, 1e-6, "hidden")
TFIDF = NeuronRank(Magnitude("layer"), 1.0, DOC)


def decoder(name: str = "llama") -> Decoder:
    return Decoder(zoo.build(CONFIGS[name]()))


shared = cache(decoder)  # for those who only look


def activations(d: Decoder, name: str, side: str) -> Tensor:
    """The activations (B, T, J) at one side of a module in the model's own forward pass, float64."""
    seen: list[Tensor] = []
    module = d.model.get_submodule(name)
    handle = module.register_forward_hook(lambda _, args, output: seen.append(args[0] if side == "input" else output))
    d.logits(zoo.ids())
    handle.remove()
    return seen[0].double().reshape(*zoo.ids().shape, -1)


def factors(a_BTJ: Tensor, spec: TfIdf) -> list[float]:
    """TF^tf_exp * IDF^idf_exp * spikiness^spike_exp of every neuron, documents being sequences."""
    M = [[sum(column) / len(column) for column in zip(*rows, strict=True)] for rows in a_BTJ.abs().tolist()]
    D, J = len(M), len(M[0])
    TF = [sum(M[d][j] for d in range(D)) / D for j in range(J)]
    R = [[M[d][j] / TF[j] for j in range(J)] for d in range(D)]
    entries = sorted(entry for row in R for entry in row)
    tau = entries[math.ceil(round(spec.quantile * D * J, 6)) - 1]
    found = []
    for j in range(J):
        IDF = math.log((D + 1) / (sum(R[d][j] >= tau for d in range(D)) + 1)) + 1
        spikiness = max(R[d][j] for d in range(D))
        found.append(TF[j] ** spec.tf_exp * IDF**spec.idf_exp * spikiness**spec.spike_exp)
    return found


def old_factors(a_BTJ: Tensor, spec: NeuronRankOld) -> list[float]:
    """TF^tf_exp * IDF^idf_exp of every neuron, over tokens."""
    found = []
    for column in a_BTJ.flatten(0, 1).T.abs().tolist():
        T = len(column)
        IDF = math.log((T + 1) / (sum(size > spec.threshold for size in column) + 1)) + 1
        found.append((sum(column) / T) ** spec.tf_exp * IDF**spec.idf_exp)
    return found


def textbook(W: Tensor, axis: str, factor: list[float], weight_exp: float, norm_exp: float) -> Tensor:
    """|W|^weight_exp * ||w_j||^norm_exp * factor_j, one weight at a time."""
    W = W.double()
    score = torch.empty_like(W)
    for o in range(W.shape[0]):
        for i in range(W.shape[1]):
            j = o if axis == "row" else i
            norm = (W[o] if axis == "row" else W[:, i]).norm().item() if norm_exp else 1.0
            score[o, i] = abs(W[o, i].item()) ** weight_exp * norm**norm_exp * factor[j % len(factor)]
    return score


# layer, its neurons' axis, and the module whose activations they are: hidden; gate before and behind the function.
HIDDEN = {"llama": "mlp.down_proj", "phi3": "mlp.down_proj", "opt": "fc2", "gpt2": "mlp.c_proj"}
GATE = {"llama": "mlp.gate_proj", "phi3": "mlp.gate_up_proj", "opt": "fc1", "gpt2": "mlp.c_fc"}
FUNCTION = {"llama": "mlp.act_fn", "phi3": "mlp.activation_fn", "opt": "activation_fn", "gpt2": "mlp.act"}
MLP = [
    ("llama", "mlp.gate_proj", "row"),
    ("llama", "mlp.up_proj", "row"),
    ("llama", "mlp.down_proj", "column"),
    ("phi3", "mlp.gate_up_proj", "row"),
    ("phi3", "mlp.down_proj", "column"),
    ("opt", "fc1", "row"),
    ("opt", "fc2", "column"),
    ("gpt2", "mlp.c_fc", "row"),
    ("gpt2", "mlp.c_proj", "column"),
]
ATTENTION = [("llama", f"self_attn.{leaf}_proj", "row") for leaf in "qkv"] + [
    ("llama", "self_attn.o_proj", "column"),
    ("phi3", "self_attn.qkv_proj", "row"),
    ("phi3", "self_attn.o_proj", "column"),
    ("opt", "self_attn.v_proj", "row"),
    ("opt", "self_attn.out_proj", "column"),
    ("gpt2", "attn.c_attn", "row"),
]
NEURONS = {"llama": 64, "phi3": 64, "opt": 64, "gpt2": 128}


def scored(d: Decoder, method, path: str) -> tuple[Tensor, Tensor]:
    """The dense weight of a layer of the first block, and its scores."""
    block = d.blocks[0]
    site = next(site for site in block.linears if site.name == f"{block.name}.{path}")
    stats = zoo.stream(d).observe(block, {site: method.needs(site)})[site]
    return block.layer(site).weight_OI, method.score(block.layer(site), stats)


@pytest.mark.parametrize("old", [False, True], ids=["tfidf", "old"])
@pytest.mark.parametrize(
    ("activation", "name", "path", "axis"),
    [("hidden", *layer) for layer in MLP + ATTENTION] + [("gate", *layer) for layer in MLP + ATTENTION[:1]],
)
def test_scores_are_the_definition(activation, name, path, axis, old):
    d = shared(name)
    if (name, path, axis) in ATTENTION:  # has no gate
        module, side, count = path, "output" if axis == "row" else "input", None
    else:
        gate = FUNCTION[name] if old else GATE[name]
        module, side, count = (
            (HIDDEN[name], "input", None) if activation == "hidden" else (gate, "output", NEURONS[name])
        )
    a_BTJ = activations(d, f"{d.blocks[0].name}.{module}", side)[..., :count]
    if old:
        spec = NeuronRankOld("layer", 0.6, 0.8, 1.3, 0.05, activation)
        W, ours = scored(d, spec, path)
        expected = textbook(W, axis, old_factors(a_BTJ, spec), 1.0, spec.weight_exp)
    else:
        spec = dataclasses.replace(ODD, activation=activation)
        W, ours = scored(d, NeuronRank(Magnitude("layer"), 1.0, spec), path)
        expected = textbook(W, axis, factors(a_BTJ, spec), spec.weight_exp, 0.0)
    assert_close(ours.double(), expected, rtol=1e-4, atol=0)


def test_a_fused_projection_is_ranked_as_two():
    """Phi-3 with Llama's weights: gate above up."""
    from transformers import LlamaConfig, Phi3Config

    sizes = zoo.LLAMA | {"tie_word_embeddings": False, "rms_norm_eps": 1e-5}
    llama, phi3 = Decoder(zoo.build(LlamaConfig(**sizes))), Decoder(zoo.build(Phi3Config(**sizes)))
    weights = llama.model.state_dict()
    for i in range(3):
        for fused, parts in {"self_attn.qkv_proj": "qkv", "mlp.gate_up_proj": ("gate", "up")}.items():
            home = f"model.layers.{i}.{fused.partition('.')[0]}"
            joined = torch.cat([weights.pop(f"{home}.{part}_proj.weight") for part in parts])
            weights[f"model.layers.{i}.{fused}.weight"] = joined
    phi3.model.load_state_dict(weights)
    assert_close(phi3.logits(zoo.ids()), llama.logits(zoo.ids()))
    for activation in ("hidden", "gate"):
        method = NeuronRank(Magnitude("layer"), 1.0, dataclasses.replace(ODD, activation=activation))
        gate, up, both = (
            scored(d, method, f"mlp.{leaf}_proj")[1] for d, leaf in ((llama, "gate"), (llama, "up"), (phi3, "gate_up"))
        )
        assert_close(both, torch.cat([gate, up]))


# --- what survives ------------------------------------------------------------------------------------------------


def pruned(method, pattern=HALF, roles=("mlp",), name="llama") -> dict[str, LayerReport]:
    """Layer -> its report. Blocks see dense activations, so that all methods see the same."""
    d = decoder(name)
    the_plan = plan(d, method, pattern, NONE, select(d.sites, roles, None, []))
    return {r.site.name: r for r in prune(zoo.stream(d, propagate="dense"), the_plan)}


def differing(a: dict[str, LayerReport], b: dict[str, LayerReport]) -> set[str]:
    """The last names of the layers whose masks differ, in every block alike."""
    differ = {name for name in a if not torch.equal(a[name].keep_OI, b[name].keep_OI)}
    leaves = {name.rpartition(".")[2] for name in differ}
    assert differ == {name for name in a if name.rpartition(".")[2] in leaves}
    return leaves


@pytest.mark.parametrize("method", [TFIDF, OLD], ids=["tfidf", "old"])
def test_in_a_layer_the_factor_changes_all_three_projections(method):
    assert differing(pruned(method), pruned(Magnitude("layer"))) == {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("part", ["tf_exp", "idf_exp", "spike_exp"])
def test_each_part_of_the_factor_does(part):
    alone = dataclasses.replace(DOC, **{"tf_exp": 0.0, "idf_exp": 0.0, "spike_exp": 0.0, part: 1.0})
    found = pruned(NeuronRank(Magnitude("layer"), 1.0, alone))
    assert differing(found, pruned(Magnitude("layer"))) == {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(("scope", "pattern"), [("row", HALF), ("row", NofM(2, 4)), ("layer", NofM(2, 4))], ids=str)
@pytest.mark.parametrize("old", [False, True], ids=["tfidf", "old"])
def test_within_rows_the_factor_of_gate_and_up_cancels_and_the_log_says_so_once(scope, pattern, old, caplog):
    caplog.set_level(logging.INFO, "sparsity")
    method = dataclasses.replace(OLD, scope=scope) if old else NeuronRank(Magnitude(scope), 1.0, DOC)
    found = pruned(method, pattern)
    (said,) = [r.getMessage() for r in caplog.records if "has no effect" in r.getMessage()]
    assert "the rows of gate_proj, up_proj" in said
    assert "down_proj" not in said
    assert ("scope=row compares within rows" if pattern is HALF else "NofM(n=2, m=4) compares within groups") in said
    assert differing(found, pruned(Magnitude(scope), pattern)) == {"down_proj"}


def test_in_a_layer_nothing_is_said(caplog):
    caplog.set_level(logging.INFO, "sparsity")
    pruned(TFIDF)
    assert not caplog.records


@pytest.mark.parametrize("base", [Wanda("layer"), Magnitude("layer")], ids=str)
def test_exponents_of_0_leave_the_base(base):
    nothing = dataclasses.replace(DOC, tf_exp=0.0, idf_exp=0.0, spike_exp=0.0)
    roles = ("attention", "mlp")
    assert differing(pruned(NeuronRank(base, 1.0, nothing), roles=roles), pruned(base, roles=roles)) == set()
    assert differing(pruned(NeuronRank(base, 1.0, DOC)), pruned(base))


def test_topics_that_are_sequences_are_documents():
    """A window as long as a sequence is one; which topic has which number does not matter."""
    topics = dataclasses.replace(DOC, num_topics=64, window=zoo.TOKENS)
    assert differing(pruned(NeuronRank(Magnitude("layer"), 1.0, topics)), pruned(TFIDF)) == set()
    few = dataclasses.replace(DOC, num_topics=3, window=8)
    assert differing(pruned(NeuronRank(Magnitude("layer"), 1.0, few)), pruned(TFIDF))


def test_the_base_is_an_option():
    made = assembled("method=neuronrank_tfidf", "method@method.base=wanda").method
    assert (made.base, made.scope) == (Wanda("layer"), "layer")
    assert made.tfidf == assembled("method=neuronrank_tfidf").method.tfidf


def test_the_layer_table_tells_the_idf():
    for report in pruned(TFIDF, roles=("attention", "mlp")).values():
        facts = report.facts
        assert [*facts] == ["idf_min", "idf_median", "idf_max", "idf_tf_spearman"]
        assert 1 <= facts["idf_min"] <= facts["idf_median"] <= facts["idf_max"] <= math.log(6) + 1
        assert -1 <= facts["idf_tf_spearman"] <= 1
    assert report.facts["idf_min"] < report.facts["idf_max"]


def test_the_idf_of_raw_means_is_tf_upside_down():
    """And that of relative means is not: why `normalise` is."""
    spearman = {}
    for normalise in (True, False):
        method = NeuronRank(Magnitude("layer"), 1.0, dataclasses.replace(DOC, normalise=normalise))
        spearman[normalise] = [report.facts["idf_tf_spearman"] for report in pruned(method).values()]
    assert max(spearman[False]) < -0.6
    assert min(spearman[True]) > -0.3


@pytest.mark.parametrize(("threshold", "says"), [(1e-6, False), (0.5, True)])
def test_a_low_threshold_makes_the_old_idf_1(threshold, says):
    """SiLU is almost never 0."""
    d = Decoder(tiny().model)
    method = dataclasses.replace(OLD, threshold=threshold, activation="gate")
    for report in prune(zoo.stream(d), plan(d, method, HALF, NONE, select(d.sites, ["mlp"], None, []))):
        far = max(report.facts["idf_max"] - 1, 1 - report.facts["idf_min"])
        assert (far > 0.1) if says else (far < 1e-3)


# --- refusals ---------------------------------------------------------------------------------------------------------


def unknown_layer() -> Decoder:
    model = zoo.build(CONFIGS["llama"]())
    model.model.layers[1].mlp.adapter = nn.Linear(32, 7)
    return Decoder(model)


def watched(d: Decoder) -> list:
    ran: list = []
    for module in d.model.modules():
        module.register_forward_pre_hook(lambda module, args: ran.append(module))
    return ran


@pytest.mark.parametrize("method", [TFIDF, OLD], ids=["tfidf", "old"])
def test_a_layer_without_neurons_is_refused_by_name(method):
    d = unknown_layer()
    ran = watched(d)
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.adapter are not known.*scope\.skip=\[adapter\]"):
        plan(d, method, HALF, NONE)
    assert ran == []
    sites = select(d.sites, ["mlp"], None, ["adapter"])
    assert plan(d, method, HALF, NONE, sites).sites == sites


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (NeuronRank(Magnitude("layer"), 1.0, dataclasses.replace(DOC, activation="gate")), "gate projection"),
        (dataclasses.replace(OLD, activation="gate"), "activation function"),
    ],
    ids=["tfidf", "old"],
)
def test_an_unknown_gate_is_refused_by_name_where_it_is_read(method, what):
    d = decoder()
    lost = {s: dataclasses.replace(s.neurons, gate=None, activation=None) for s in d.sites if s.role == "mlp"}
    sites = [dataclasses.replace(s, neurons=lost.get(s, s.neurons)) for s in d.sites]
    ran = watched(d)
    with pytest.raises(UserError, match=rf"layers\.0\.mlp\.gate_proj: no {what} was found.*activation=hidden"):
        plan(d, method, HALF, NONE, sites)
    attention = [s for s in sites if s.role == "attention"]
    assert plan(d, method, HALF, NONE, attention).sites == tuple(attention)
    assert ran == []


def test_the_neurons_of_a_site_are_no_part_of_its_name():
    assert Site(0, "a", "mlp") == next(Site(0, "a", "mlp", s.neurons) for s in decoder().sites)

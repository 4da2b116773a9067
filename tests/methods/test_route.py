"""Routing adds nothing of its own: a route is the method that it leads to, in masks, needs, checks, and on record."""

from __future__ import annotations

import dataclasses

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from commands import MEASURED, SMALL, UNMEASURED, command, refuse, run
from composing import OPTIONS, key
from composing import assembled as assembled_by
from contract import CASES, Parts, assembled, walk

from sparsity.core import UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import plan, prune, select
from sparsity.methods import Dense, Magnitude, NeuronRank, Route, SparseGPT, TfIdf, Wanda
from sparsity.models import Decoder
from sparsity.patterns import NofM, Unstructured
from sparsity.statistics import Gram, GroupedActivity, SquaredNorm

HALF, NONE = Unstructured(0.5), NoCorrection()
TFIDF = NeuronRank(Magnitude("layer"), 1.0, TfIdf(1.0, 1.0, 1.5, 0.0, 0.6, True, None, 32, "hidden", 0))
HYBRID = Route({"attention": Wanda("row"), "mlp": TFIDF})


def decoder() -> Decoder:
    return Decoder(zoo.build(CONFIGS["llama"]()))


def masks(method, d: Decoder | None = None) -> dict[str, torch.Tensor]:
    d = d or decoder()
    stream = zoo.stream(d, propagate="dense")  # what a layer sees depends on no other's method
    return {report.site.name: report.keep_OI for report in prune(stream, plan(d, method, HALF, NONE))}


METHODS = [(name, ("attention", "mlp"), "unstructured") for name in OPTIONS["method"] if name != "hybrid"]
METHODS += [("sparsegpt", ("default",), "2of4"), ("neuronrank_tfidf", ("mlp", "default"), "2of4")]


@pytest.mark.parametrize(("method", "keys", "pattern"), METHODS)
def test_one_method_on_every_route_is_that_method_bit_for_bit(method, keys, pattern):
    parts = assembled((method, pattern, "none"))
    alone = walk(parts, CASES[0])
    routed = walk(Parts(Route(dict.fromkeys(keys, parts.method)), parts.pattern, parts.corrector), CASES[0])
    assert all(torch.equal(alone.after[name], routed.after[name]) for name in alone.after)
    for one, other in zip(alone.reports, routed.reports, strict=True):
        assert torch.equal(one.keep_OI, other.keep_OI)
        assert (one.site, one.asked, one.found, one.facts) == (other.site, other.asked, other.found, other.facts)
    assert alone.plan.needs == routed.plan.needs


def test_a_layers_name_goes_before_its_role_and_its_role_before_the_rest():
    method = Route({"default": Dense(), "mlp": Magnitude("layer"), "down_proj": Wanda("row"), "q_proj": Wanda("layer")})
    expected = {"q_proj": Wanda("layer"), "down_proj": Wanda("row"), "gate_proj": Magnitude("layer")}
    expected |= {"up_proj": Magnitude("layer")}
    d = decoder()
    alone = {each: masks(each) for each in {*expected.values()}}
    found = masks(method, d)
    for site in d.sites:
        chosen = expected.get(site.leaf, Dense())
        assert method.at(site) == chosen
        assert torch.equal(
            found[site.name], alone[chosen][site.name] if chosen in alone else torch.ones_like(found[site.name])
        )


def test_a_layer_without_a_route_is_refused_by_name():
    with pytest.raises(UserError, match=r"layers\.0\.self_attn\.q_proj \(attention\) has no route: got routes for mlp"):
        plan(decoder(), Route({"mlp": Wanda("row")}), HALF, NONE)
    d = decoder()  # and not where it is not to be pruned
    plan(d, Route({"mlp": Wanda("row")}), HALF, NONE, select(d.sites, ["mlp"], None, []))


@pytest.mark.parametrize("key", ["mpl", "fc1", "model.layers.0.mlp.down_proj", "head"])
def test_a_route_that_leads_nowhere_is_refused_by_name(key):
    with pytest.raises(UserError, match=rf"the route '{key}' leads nowhere.*q_proj.*down_proj.*or default"):
        plan(decoder(), Route({"default": Wanda("row"), key: Dense()}), HALF, NONE)


def test_a_role_that_is_not_pruned_is_no_mistake():
    d = decoder()
    sites = select(d.sites, ["mlp"], None, [])
    assert plan(d, HYBRID, HALF, NONE, sites).sites == sites


def test_what_layers_need_is_routed():
    d = decoder()
    s, added = zoo.stream(d), []
    observe = s.observe

    def spy(block, needs):
        stats = observe(block, needs)
        for site, known in stats.items():
            added.append((site.role, {type(tap.statistic) for tap in known.folded}))
        return stats

    s.observe = spy
    list(prune(s, plan(d, HYBRID, HALF, NONE)))
    assert {role: kinds for role, kinds in added} == {"attention": {SquaredNorm}, "mlp": {GroupedActivity}}
    assert len(added) == len(d.sites)
    method = Route({"default": Dense(), "down_proj": SparseGPT("layer", 0.01, 128)})
    needs = plan(d, method, HALF, NONE).needs
    assert {site.leaf: [type(tap.statistic) for tap in taps] for site, taps in needs.items() if taps} == {
        "down_proj": [Gram]
    }


def test_each_method_checks_its_own_layers_alone():
    seen = {}

    class Checking(Magnitude):
        def check(self, sites, pattern):
            seen[self] = [site.leaf for site in sites], pattern

    one, other = Checking("row"), Checking("layer")
    d = decoder()
    plan(d, Route({"mlp": one, "attention": other}), NofM(2, 4), NONE)
    assert seen == {
        one: (["gate_proj", "up_proj", "down_proj"] * 3, NofM(2, 4)),
        other: (["q_proj", "k_proj", "v_proj", "o_proj"] * 3, NofM(2, 4)),
    }


def test_a_dense_route_asks_for_nothing():
    d = decoder()
    reports = list(prune(zoo.stream(d), plan(d, Route({"mlp": Dense(), "attention": Wanda("row")}), NofM(2, 4), NONE)))
    assert {(r.site.role, r.asked, r.found) for r in reports} == {("mlp", 0.0, 0.0), ("attention", 0.5, 0.5)}


def test_routes_are_values():
    again = Route({"mlp": TFIDF, "attention": Wanda("row")})  # in another order
    assert again == HYBRID
    assert hash(again) == hash(HYBRID)
    assert Route({"attention": Wanda("layer"), "mlp": TFIDF}) != HYBRID


# --- on record --------------------------------------------------------------------------------------------------------

NAMED = {  # options -> the method of each kind of layer that is not what is said first
    "hybrid": ([], {"attention": "wanda", "mlp": "neuronrank_tfidf"}),
    "seed's fast mode": (
        ["method@method.routes.mlp=neuronrank_old"],
        {"attention": "wanda", "mlp": "neuronrank_old"},
    ),
    "another route": (
        ["+method@method.routes.down_proj=sparsegpt"],
        {"attention": "wanda", "mlp": "neuronrank_tfidf", "down_proj": "sparsegpt"},
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_the_table_of_layers_names_the_option_of_each_route(name, work):
    options, expected = NAMED[name]
    found = run(UNMEASURED, "method=hybrid", *options)
    for row in found.layers:
        leaf = row["name"].rpartition(".")[2]
        option = expected.get(leaf, expected[row["role"]])
        assert row["method"] == option, row["name"]
        assert bool(row["idf_max"]) == option.startswith("neuronrank")
        if "down_proj" in expected:
            assert bool(row["damp"]) == (option == "sparsegpt")
    choices = found.result["choices"]
    assert choices["method"] == "hybrid"
    for route, option in expected.items():
        assert choices[f"method@method.routes.{route}"] == option
    assert found.result["sparsity"]["found"] == 0.5


def test_without_routes_the_table_names_the_method(work):
    assert {row["method"] for row in run(UNMEASURED, "method=ria").layers} == {"ria"}


def test_hybrid_is_wanda_in_attention_and_neuronrank_in_the_mlp(work):
    dense = ("calibration.propagate=dense", UNMEASURED, "save=true")
    hybrid, wanda, tfidf = (
        run(*dense, f"method={name}", into=name).pruned for name in ("hybrid", "wanda", "neuronrank_tfidf")
    )
    for name, weight_OI in hybrid.items():
        assert torch.equal(weight_OI, (wanda if "attn" in name else tfidf)[name])
        assert not torch.equal(weight_OI, (tfidf if "attn" in name else wanda)[name])


def test_the_groups_options_reach_every_route():
    tfidf = assembled_by("method=hybrid").method.routes["mlp"].tfidf
    changed = assembled_by("method=hybrid", "tfidf=topic", "tfidf.idf_exp=0.25", "seed=7").method.routes["mlp"].tfidf
    assert changed == dataclasses.replace(tfidf, num_topics=64, idf_exp=0.25, seed=7)
    keys = [key("method=hybrid", option) for option in ("seed=0", "tfidf=topic", "tfidf.idf_exp=0.25")]
    assert len({*keys}) == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["+method@method.routes.dwn_proj=ria"], ["the route 'dwn_proj' leads nowhere", "down_proj"]),
        (["~method@method.routes.mlp"], ["layers.0.mlp.gate_proj (mlp) has no route", "attention"]),
        (["tfidf.quantile=1.5"], ["method.routes.mlp.tfidf.quantile=1.5 is not valid", ">= 0 and <= 1"]),
        (["tfidf=topic", "tfidf.window=0"], ["method.routes.mlp.tfidf.window=0 is not valid"]),
    ],
)
def test_mistakes_are_messages_before_any_forward_pass(options, said, work, monkeypatch):
    monkeypatch.setattr(Decoder, "record", refuse)
    monkeypatch.setattr(Decoder, "logits", refuse)
    ended = command(*SMALL, *MEASURED, "method=hybrid", *options)
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err
    for words in said:
        assert words in ended.err

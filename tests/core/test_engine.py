"""The engine writes what the corrector made of the layers that were asked for, and of no others, and holds no more than it must."""

from __future__ import annotations

import weakref

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from problems import GRAM, NORM

from sparsity.core import Corrected, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import plan, prune, select
from sparsity.methods import Magnitude, SparseGPT, Wanda
from sparsity.models import Decoder
from sparsity.patterns import Unstructured

HALF, NONE = Unstructured(0.5), NoCorrection()


class Marker:
    """A corrector whose layers can be told from any other's."""

    def needs(self, site):
        return (NORM,)

    def correct(self, layer, pruned, stats):
        assert torch.equal(
            pruned.weight_OI, layer.weight_OI * pruned.keep_OI
        )  # the dense layer, not what is left of it
        return Corrected(pruned.keep_OI * (layer.site.block + 1.0 + stats[NORM].tokens))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_engine_writes_what_the_corrector_returned(name):
    decoder = Decoder(zoo.build(CONFIGS[name]()))
    for report in prune(zoo.stream(decoder), plan(decoder, Magnitude("layer"), HALF, Marker())):
        expected_OI = report.keep_OI * (report.site.block + 1.0 + 5 * zoo.TOKENS)
        assert torch.equal(decoder.layer(report.site).weight_OI, expected_OI)


def test_only_the_selected_layers_change():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    before = {site: decoder.layer(site).weight_OI.clone() for site in decoder.sites}
    sites = select(decoder.sites, ["mlp"], 2, ["down_proj", "model.layers.1.mlp.up_proj"])
    assert [site.name for site in sites] == [
        "model.layers.1.mlp.gate_proj",
        "model.layers.2.mlp.gate_proj",
        "model.layers.2.mlp.up_proj",
    ]
    reports = list(prune(zoo.stream(decoder), plan(decoder, Wanda("row"), HALF, NONE, sites)))
    assert [report.site for report in reports] == list(sites)
    for site in decoder.sites:
        assert torch.equal(decoder.layer(site).weight_OI, before[site]) is (site not in sites)


@pytest.mark.parametrize(
    ("roles", "last_blocks", "skip", "message"),
    [
        (["mlp"], 9, [], "last_blocks=9 is out of range: expected 1 to 3"),
        (["mlp"], None, ["nope"], "names 'nope'.*q_proj, k_proj"),
        (["attention"], None, ["q_proj", "k_proj", "v_proj", "o_proj"], "leaves no layer"),
    ],
)
def test_a_scope_that_fits_nothing_is_refused(roles, last_blocks, skip, message):
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    with pytest.raises(UserError, match=message):
        select(decoder.sites, roles, last_blocks, skip)


def test_statistics_are_gone_before_the_block_is_left():
    """On a wide model a Gram matrix and its factor are as large as the layer: none may wait through the next forward pass."""
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    s, alive, left = zoo.stream(decoder), [], []
    observe, advance = s.observe, s.advance

    def observing(block, needs):
        stats = observe(block, needs)
        alive.extend(weakref.ref(known[GRAM].gram_II) for known in stats.values())
        return stats

    def advancing(block):
        left.append(sum(ref() is not None for ref in alive))
        advance(block)

    s.observe, s.advance = observing, advancing
    for _ in prune(s, plan(decoder, SparseGPT("layer", 0.01, 128), HALF, NONE)):
        pass
    assert left == [0, 0]
    assert len(alive) == 21

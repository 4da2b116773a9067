"""A layer's neurons are what the model makes of them: found by changing weights and watching activations, not by names."""

from __future__ import annotations

import copy
from functools import cache

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsity.core import Site
from sparsity.models import Decoder
from sparsity.models.blocks import Block, find_block

WIDTH, HIDDEN = 8, 20
AT = 1  # the block that is looked at
FUSED = {"phi3"}
NO_ACTIVATION = {"bloom"}  # its GELU is a class of its own, no module of transformers.activations


@cache
def template(name: str) -> PreTrainedModel:
    return zoo.build(CONFIGS[name]())


@pytest.fixture(params=CONFIGS)
def decoder(request) -> Decoder:
    return Decoder(copy.deepcopy(template(request.param)))


def sites(block: Block, role: str, axis: str) -> list[Site]:
    return [site for site in block.linears if site.role == role and site.neurons and site.neurons.axis == axis]


def seen(decoder: Decoder, *sources: tuple[str, str]) -> list[Tensor]:
    """The activations (N, width) at the modules' inputs and outputs in the model's own forward pass."""
    found: dict[tuple[str, str], Tensor] = {}
    handles = []
    for name, side in sources:

        def hook(_, args, output, source=(name, side)):
            found[source] = (args[0] if source[1] == "input" else output).flatten(0, -2).clone()

        handles.append(decoder.model.get_submodule(name).register_forward_hook(hook))
    decoder.logits(zoo.ids(2, 8))
    for handle in handles:
        handle.remove()
    return [found[source] for source in sources]


@torch.no_grad()
def silence(block: Block, site: Site, rows: list[int]) -> None:
    """These outputs of the layer become 0 on every token."""
    linear = block.linears[site]
    linear.weight_OI[rows] = 0
    if linear.module.bias is not None:
        linear.module.bias[rows] = 0


def test_every_site_has_neurons_and_their_number_fits_its_shape(decoder):
    for block in decoder.blocks:
        for site, linear in block.linears.items():
            neurons, (outputs, inputs) = site.neurons, linear.weight_OI.shape
            assert neurons is not None, site.name
            if neurons.axis == "column":
                assert neurons.count == inputs, site.name
            else:
                fused = site.role == "mlp" and decoder.model.config.model_type in FUSED
                assert outputs == neurons.count * (1 + fused), site.name
        for role in ("attention", "mlp"):
            assert len(sites(block, role, "column")) == 1
            assert len(sites(block, role, "row")) == sum(site.role == role for site in block.linears) - 1 > 0


def test_the_rows_of_a_neuron_make_one_input_of_the_down_projection(decoder):
    block, j = decoder.blocks[AT], 7
    (down,), rows = sites(block, "mlp", "column"), sites(block, "mlp", "row")
    assert {site.neurons.module for site in (down, *rows)} == {down.name}
    (before_NJ,) = seen(decoder, (down.name, "input"))
    assert before_NJ[:, j].any()
    for site in rows:
        silence(block, site, [r for r in range(len(block.linears[site].weight_OI)) if r % site.neurons.count == j])
    (after_NJ,) = seen(decoder, (down.name, "input"))
    assert after_NJ[:, j].eq(0).all()  # act(0) is 0 for every function here
    others_J = torch.arange(down.neurons.count) != j
    assert torch.equal(after_NJ[:, others_J], before_NJ[:, others_J])


def test_the_column_of_a_neuron_is_what_multiplies_it(decoder):
    block, j = decoder.blocks[AT], 5
    (down,) = sites(block, "mlp", "column")
    x_NJ, y_NO = seen(decoder, (down.name, "input"), (down.name, "output"))
    weight_OI = block.linears[down].weight_OI
    column_O = weight_OI[:, j].clone()
    with torch.no_grad():
        weight_OI[:, j] = 0
    (less_NO,) = seen(decoder, (down.name, "output"))
    torch.testing.assert_close(y_NO - less_NO, x_NJ[:, j].outer(column_O), rtol=1e-4, atol=1e-4)


def test_the_gate_goes_into_the_activation_function_and_the_rest_multiplies_what_comes_out(decoder):
    block, name = decoder.blocks[AT], decoder.model.config.model_type
    (down,), rows = sites(block, "mlp", "column"), sites(block, "mlp", "row")
    neurons, J = down.neurons, down.neurons.count
    assert {(site.neurons.gate, site.neurons.activation) for site in rows} == {(neurons.gate, neurons.activation)}
    assert neurons.gate in {site.name for site in rows}
    assert (neurons.activation is None) == (name in NO_ACTIVATION)
    if neurons.activation is not None:
        gate_NX, before_NJ = seen(decoder, (neurons.gate, "output"), (neurons.activation, "input"))
        assert torch.equal(gate_NX[:, :J], before_NJ)
        after_NJ, hidden_NJ = seen(decoder, (neurons.activation, "output"), (down.name, "input"))
        for site in rows:
            if site.name != neurons.gate:
                after_NJ = after_NJ * seen(decoder, (site.name, "output"))[0]
        if gate_NX.shape[1] > J:
            after_NJ = after_NJ * gate_NX[:, J:]
        assert torch.equal(after_NJ, hidden_NJ)


def test_the_output_projection_of_attention_takes_in_what_the_others_put_out(decoder):
    """Also where it is defined before them, as in Phi-3."""
    block = decoder.blocks[AT]
    (last,), rows = sites(block, "attention", "column"), sites(block, "attention", "row")
    assert (last.neurons.module, last.neurons.side) == (last.name, "input")
    (before_NI,) = seen(decoder, (last.name, "input"))
    assert before_NI.any()
    for site in rows:
        assert (site.neurons.module, site.neurons.side) == (site.name, "output")
        silence(block, site, list(range(site.neurons.count)))
    (after_NI,) = seen(decoder, (last.name, "input"))
    assert after_NI.eq(0).all()


# --- shapes and orders that the zoo does not have -----------------------------------------------------------------


def found(**layers: nn.Module) -> dict[str, str | None]:
    """Leaf -> axis (None: no neurons) of an MLP with these layers."""
    module = nn.Module()
    module.mlp = nn.ModuleDict(layers)
    block = find_block(0, "blocks.0", module, WIDTH, None)
    return {site.leaf: site.neurons.axis if site.neurons else None for site in block.linears}


def up(count: int = HIDDEN) -> nn.Linear:
    return nn.Linear(WIDTH, count)


def down(count: int = HIDDEN) -> nn.Linear:
    return nn.Linear(count, WIDTH)


def test_the_order_of_the_layers_does_not_matter():
    assert found(w1=up(), w2=down(), w3=up()) == {"w1": "row", "w2": "column", "w3": "row"}
    assert found(down_proj=down(), up_proj=up(), gate_proj=up()) == {
        "down_proj": "column",
        "up_proj": "row",
        "gate_proj": "row",
    }


def test_a_square_mlp_ends_in_its_last_layer():
    square = up(WIDTH), up(WIDTH), down(WIDTH)
    assert found(**dict(zip(("gate", "up", "down"), square, strict=True))) == {
        "gate": "row",
        "up": "row",
        "down": "column",
    }


@pytest.mark.parametrize("beside", [nn.Linear(WIDTH, 4), nn.Linear(HIDDEN, 3)])
@pytest.mark.parametrize("name", ["gate", "router"])
def test_a_layer_beside_has_no_neurons_and_takes_none_away(name, beside):
    expected = {"gate_proj": "row", "up_proj": "row", "down_proj": "column", name: None}
    assert found(gate_proj=up(), up_proj=up(), down_proj=down(), **{name: beside}) == expected
    assert found(**{name: beside}, gate_proj=up(), up_proj=up(), down_proj=down()) == expected


def test_layers_that_fit_no_picture_have_no_neurons():
    assert found(alone=down()) == {"alone": None}
    assert found(a=nn.Linear(WIDTH, 5), b=nn.Linear(6, WIDTH)) == {"a": None, "b": None}
    assert found(a=nn.Linear(WIDTH, 3 * HIDDEN), b=down()) == {"a": None, "b": None}


def test_the_gate_is_unknown_where_two_layers_could_be_it():
    module = nn.Module()
    module.mlp = nn.ModuleDict({"w1": up(), "w2": down(), "w3": up()})
    for site in find_block(0, "blocks.0", module, WIDTH, None).linears:
        assert (site.neurons.module, site.neurons.gate) == ("blocks.0.mlp.w2", None)


def test_two_mlps_of_a_block_keep_apart():
    module = nn.Module()
    module.experts = nn.ModuleList(
        nn.ModuleDict({"up_proj": up(count), "down_proj": down(count)}) for count in (12, 16)
    )
    block = find_block(0, "blocks.0", module, WIDTH, None)
    assert {(site.name[9:], site.neurons.module[9:], site.neurons.count) for site in block.linears} == {
        ("experts.0.up_proj", "experts.0.down_proj", 12),
        ("experts.0.down_proj", "experts.0.down_proj", 12),
        ("experts.1.up_proj", "experts.1.down_proj", 16),
        ("experts.1.down_proj", "experts.1.down_proj", 16),
    }

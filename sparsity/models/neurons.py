"""The neurons of a block's linear layers, found by the layers' shapes and the order in which the block defines them.

An MLP consists of the linear layers of one module (or of the block itself, as in OPT). Its *down* projection is the last layer
whose outputs have the model's width and whose number of inputs is the number of outputs of other layers (or half of it: Phi-3's
fused gate_up). These inputs are the MLP's neurons. In attention, too, the last layer whose outputs have the model's width is the
output projection (Phi-3 defines it first).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from ..core import Neurons, Role


class Shape(NamedTuple):
    """The role of a linear layer, and the shape of its weight."""

    role: Role
    outputs: int
    inputs: int


def find_neurons(block: str, module: nn.Module, shapes: Mapping[str, Shape], width: int) -> dict[str, Neurons]:
    """The neurons of each layer, by the layer's path in the block. A layer that fits neither an MLP nor attention is left out.

    `block`: the block's full name; `shapes`: its linear layers in the order of definition; `width`: the number of features of the
    hidden states.
    """
    found: dict[str, Neurons] = {}
    attention = [path for path, shape in shapes.items() if shape.role == "attention"]
    last = [path for path in attention if shapes[path].outputs == width][-1:]
    if last and len(attention) > 1:
        for path in attention:
            found[path] = Neurons("row", shapes[path].outputs, f"{block}.{path}", "output")
        found[last[0]] = Neurons("column", shapes[last[0]].inputs, f"{block}.{last[0]}", "input")

    homes: dict[str, list[str]] = {}
    for path, shape in shapes.items():
        if shape.role == "mlp":
            homes.setdefault(path.rpartition(".")[0], []).append(path)
    for home, paths in homes.items():
        found |= _mlp(block, home, module.get_submodule(home), {path: shapes[path] for path in paths}, width)
    return found


def _mlp(block: str, home: str, module: nn.Module, shapes: Mapping[str, Shape], width: int) -> dict[str, Neurons]:
    for down in reversed(list(shapes)):
        count = shapes[down].inputs
        rows = [path for path in shapes if path != down and shapes[path].outputs in (count, 2 * count)]
        rows = [path for path in rows if shapes[path].inputs == width]
        if shapes[down].outputs == width and rows:
            gates = [path for path in rows if len(rows) == 1 or "gate" in path.rpartition(".")[2].lower()]
            gate = f"{block}.{gates[0]}" if len(gates) == 1 else None
            functions = [name for name, child in module.named_children() if _is_activation(child)]
            where = ".".join(filter(None, [block, home]))
            activation = f"{where}.{functions[0]}" if len(functions) == 1 else None
            row = Neurons("row", count, f"{block}.{down}", "input", gate, activation)
            return dict.fromkeys(rows, row) | {down: replace(row, axis="column")}
    return {}


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in ("transformers.activations", nn.modules.activation.__name__)

"""A model's blocks and their linear layers, found by type, and the place where a block's weights are stored while it is not used.

*Blocks* are the module list that the model iterates. *Linear layers* are found in them with `isinstance`, so subclasses count.
GPT-2's Conv1D stores its weight transposed; only `Linear` deals with that. A layer inside a module whose name contains *attn* or
*attention* has the role attention, every other layer the role mlp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from ..core import Layer, Role, Side, Site, UserError
from .neurons import Shape, find_neurons

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Linear:
    """A linear layer with its weight as (O, I), in whichever order it is stored."""

    module: nn.Module
    transposed: bool

    @property
    def weight(self) -> nn.Parameter:
        """The weight as it is stored: (O, I), or (I, O) if `transposed`."""
        assert isinstance(self.module.weight, nn.Parameter)
        return self.module.weight

    @property
    def weight_OI(self) -> Tensor:
        return self.turned(self.weight.detach())

    def turned(self, x_ANY: Tensor) -> Tensor:
        """A matrix in the storage order as (O, I), or one that is (O, I) in the storage order."""
        return x_ANY.T if self.transposed else x_ANY


class Home(Protocol):
    """The storage of a block's weights outside its module, such as files."""

    def lent(self, module: nn.Module) -> AbstractContextManager[None]:
        """A context in which the module holds its weights, on the CPU. At its end they are stored again if `touched` was called."""
        ...

    def touched(self) -> None:
        """Notes that the weights in the module have changed."""
        ...


@dataclass(frozen=True)
class Block:
    """A decoder block: its module, its linear layers by site, and the storage of its weights."""

    index: int  # from 0; for the output head, the number of blocks
    name: str  # "model.layers.3"
    module: nn.Module
    linears: Mapping[Site, Linear]
    home: Home | None = None  # None: the module itself holds the weights

    def layer(self, site: Site) -> Layer:
        """The site and its weight. In a streamed model the weight has values only while the block is at hand."""
        return Layer(site, self.linears[site].weight_OI)

    def part(self, name: str) -> nn.Module:
        """A module of the block by its full name."""
        return self.module.get_submodule(name.removeprefix(f"{self.name}."))

    def width(self, site: Site, name: str, side: Side) -> int:
        """The number of features that a token has on one side of a module which `site` taps."""
        for other, linear in self.linears.items():
            if other.name == name:
                return linear.weight_OI.shape[side == "input"]
        assert site.neurons is not None, f"{site} taps {name}, which is no layer of its block"
        return site.neurons.count

    @torch.no_grad()
    def write(self, site: Site, weight_OI: Tensor) -> None:
        """Overwrite a layer's weight (O, I). The block must be at hand."""
        self.linears[site].weight_OI.copy_(weight_OI)
        if self.home is not None:
            self.home.touched()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """A context in which the block's weights are on `device`. Afterwards they are moved back."""
        with self.at_hand():
            rest = next(self.module.parameters()).device
            self.module.to(device)
            try:
                yield
            finally:
                self.module.to(rest)

    def at_hand(self) -> AbstractContextManager[None]:
        """A context in which the block's weights are in memory, on whichever device."""
        return nullcontext() if self.home is None else self.home.lent(self.module)


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The name of the outermost module list whose length is the configuration's number of layers, and the list.

    Raises `UserError`, listing what was found, unless there is exactly one such list.
    """
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    outermost = {n: m for n, m in lists.items() if not any(n.startswith(f"{other}.") for other in lists)}
    depth = model.config.get_text_config(decoder=True).num_hidden_layers
    found = [(n, m) for n, m in outermost.items() if len(m) == depth]
    if len(found) != 1:
        seen = ", ".join(f"{n} ({len(m)} x {type(m[0]).__name__})" for n, m in outermost.items()) or "none"
        raise UserError(
            f"{type(model).__name__}: expected one list of {depth} decoder blocks; module lists found: {seen}. "
            f"This architecture is not understood yet"
        )
    return found[0]


def find_block(index: int, name: str, module: nn.Module, width: int, home: Home | None) -> Block:
    """A block with its layers. `width`: of the hidden states."""
    from transformers.pytorch_utils import Conv1D  # it takes seconds, unless a model is there

    linears: dict[str, Linear] = {}
    shapes: dict[str, Shape] = {}
    for path, child in module.named_modules():
        if isinstance(child, nn.Linear | Conv1D):
            role: Role = "attention" if any("attn" in p or "attention" in p for p in path.lower().split(".")) else "mlp"
            linears[path] = Linear(child, isinstance(child, Conv1D))
            shapes[path] = Shape(role, *linears[path].weight_OI.shape)
    neurons = find_neurons(name, module, shapes, width)
    sites = {path: Site(index, f"{name}.{path}", shapes[path].role, neurons.get(path)) for path in linears}
    return Block(index, name, module, {sites[path]: linear for path, linear in linears.items()}, home)

"""A model's blocks and the linear layers in them, found by what they are, and where a block's weights rest meanwhile.

*Blocks* are the module list that the model iterates. *Linear layers* are found in them with `isinstance`, so subclasses count;
GPT-2's Conv1D stores its weight transposed, and `Linear` is the one place that knows. A layer inside a module named *attn* or
*attention* is attention, every other one is mlp.
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
    """A linear layer whose weight is seen as (O, I), whatever the storage order."""

    module: nn.Module
    transposed: bool

    @property
    def weight(self) -> nn.Parameter:
        """As it is stored."""
        assert isinstance(self.module.weight, nn.Parameter)
        return self.module.weight

    @property
    def weight_OI(self) -> Tensor:
        return self.turned(self.weight.detach())

    def turned(self, x_ANY: Tensor) -> Tensor:
        """A matrix in the storage order as (O, I), or one that is (O, I) in the storage order."""
        return x_ANY.T if self.transposed else x_ANY


class Home(Protocol):
    """Where a block's weights rest, if that is not its module."""

    def lent(self, module: nn.Module) -> AbstractContextManager[None]:
        """The weights in the module, on the CPU; back at rest afterwards, as they then are if `touched` was said."""
        ...

    def touched(self) -> None:
        """The weights that are lent are no longer those that rest."""
        ...


@dataclass(frozen=True)
class Block:
    index: int
    name: str  # "model.layers.3"
    module: nn.Module
    linears: Mapping[Site, Linear]
    home: Home | None = None  # None: its module

    def layer(self, site: Site) -> Layer:
        return Layer(site, self.linears[site].weight_OI)

    def part(self, name: str) -> nn.Module:
        """A module of the block by its full name."""
        return self.module.get_submodule(name.removeprefix(f"{self.name}."))

    def width(self, site: Site, name: str, side: Side) -> int:
        """How many numbers a token has on one side of a module that `site` taps."""
        for other, linear in self.linears.items():
            if other.name == name:
                return linear.weight_OI.shape[side == "input"]
        assert site.neurons is not None, f"{site} taps {name}, which is no layer of its block"
        return site.neurons.count

    @torch.no_grad()
    def write(self, site: Site, weight_OI: Tensor) -> None:
        """Of a block that is at hand."""
        self.linears[site].weight_OI.copy_(weight_OI)
        if self.home is not None:
            self.home.touched()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """The block's weights on `device`, and back where they were afterwards."""
        with self.at_hand():
            rest = next(self.module.parameters()).device
            self.module.to(device)
            try:
                yield
            finally:
                self.module.to(rest)

    def at_hand(self) -> AbstractContextManager[None]:
        """The block's weights in memory, wherever that is."""
        return nullcontext() if self.home is None else self.home.lent(self.module)


def find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The outermost module list as long as the configuration says the model is deep.

    Raises `UserError` with what was found, where that is not exactly one list.
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

"""A Hugging Face causal language model as embedding -> blocks -> head. There is no list of architectures: the parts are found.

`blocks` says what a block is and which layers in it can be pruned. Tensors of a block that are not the weight of a linear layer
(experts fused into one 3-D tensor, routers, convolutions) are listed in `unpruned`, so they are never skipped silently.

The arguments of each block (*calls*) are recorded, not rebuilt: the model itself runs with its blocks replaced by pass-throughs.
Blocks may get different arguments: sliding windows (Gemma 2, Mistral, Qwen) or rotary tables (Gemma 3).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core import Layer, Site, UserError
from ..linalg import all_finite
from .blocks import Block, Linear, find_block, find_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .files import Files


@dataclass(frozen=True)
class Call:
    """The arguments with which the model called a block, without the hidden states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self, module: Callable[..., Any], hidden_BTI: Tensor) -> Tensor:
        return hidden_of(module(hidden_BTI, *self.args, **self.kwargs))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Call:
        return Call(map_tensors(fn, self.args), map_tensors(fn, self.kwargs))


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a block's return value, which is a tensor or a tuple that starts with one."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def map_tensors(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with every tensor in its nested tuples, lists and dicts replaced by `fn` of it."""
    if isinstance(value, Tensor):
        return fn(value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(fn, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(fn, v) for k, v in value.items()}
    return value


class _Stop(Exception):
    """Ends the model's forward pass early, where its logits are not needed."""


class Decoder:
    """The model, its blocks and its layers, whose weights are seen as (O, I). It knows no text and no pruning."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        files: Files | None = None,
    ):
        """`tokenizer`: for evaluators that read their own text. `files`: the storage of the blocks' weights in a streamed model.

        Raises `UserError` if the blocks are not found, or hold no linear layer.
        """
        self.model, self.tokenizer, self.files = model.eval(), tokenizer, files
        name, modules = find_blocks(model)
        width = model.config.get_text_config(decoder=True).hidden_size
        homes = [files.home(f"{name}.{i}") if files else None for i in range(len(modules))]
        self.blocks = tuple(find_block(i, f"{name}.{i}", module, width, homes[i]) for i, module in enumerate(modules))
        self.sites = tuple(site for block in self.blocks for site in block.linears)
        if not self.sites:
            raise UserError(
                f"{type(model).__name__}: no linear layer in its blocks ({name}): nothing here can be pruned"
            )
        known = {id(linear.weight) for block in self.blocks for linear in block.linears.values()}
        self.unpruned = {
            f"{block.name}.{n}": tuple(p.shape)
            for block in self.blocks
            for n, p in block.module.named_parameters()
            if p.ndim >= 2 and id(p) not in known
        }

    @property
    def device(self) -> torch.device:
        """The device of the token embeddings, and of all other weights that are in memory between computations."""
        return self.embedding_VE.device

    @property
    def embedding_VE(self) -> Tensor:
        """The token embeddings (V, E). They are never pruned."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """A context in which the model, without blocks stored in files, is on `device`. Afterwards it is moved back."""
        home = self.device
        self._move(device)
        try:
            yield
        finally:
            self._move(home)

    def _move(self, device: torch.device) -> None:
        self.model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))

    def block(self, index: int) -> Block:
        """The block with this index; the index behind the last block is the output head."""
        return self.blocks[index] if index < len(self.blocks) else self.head_block

    def layer(self, site: Site) -> Layer:
        """The site and its weight. The weight has values only while its block is at hand; its shape is always known."""
        return self.block(site.block).layer(site)

    def layers(self, sites: Sequence[Site]) -> Iterator[Layer]:
        """The layers of these sites, which must be in the model's order. Each one has values until the next one is taken."""
        for index, its in groupby(sites, key=lambda site: site.block):
            with self.block(index).at_hand():
                yield from map(self.block(index).layer, its)

    def parameters(self) -> Iterator[dict[str, Tensor]]:
        """All parameters by name, in the model's order, one dictionary per block. Each has values until the next one is taken."""
        names = [name for name, _ in self.model.named_parameters()]
        blocks = {f"{block.name}.{n}": block.index for block in self.blocks for n, _ in block.module.named_parameters()}
        for index, its in groupby(names, key=blocks.get):
            with nullcontext() if index is None else self.blocks[index].at_hand():
                yield {name: self.model.get_parameter(name).detach() for name in its}

    @cached_property
    def head_block(self) -> Block:
        """The output head as a block of one layer. Raises `UserError` if it is not linear or shares the embedding's weight."""
        head = self.model.get_output_embeddings()
        name = next((name for name, module in self.model.named_modules() if module is head), "the output head")
        if not isinstance(head, nn.Linear):
            raise UserError(f"{name} is {type(head).__name__}: expected a linear layer. Leave scope.lm_head=false")
        if head.weight is self.model.get_input_embeddings().weight:
            raise UserError(
                f"{name} shares its weight with the token embeddings (tie_word_embeddings), so pruning it would prune them: "
                f"expected a head with its own weight. Leave scope.lm_head=false for this model"
            )
        return Block(
            len(self.blocks), name, head, {Site(len(self.blocks), name, "head"): Linear(head, transposed=False)}
        )

    @torch.no_grad()
    def logits(self, ids_BT: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of ids on any device."""
        logits: Tensor = self.model(input_ids=ids_BT.to(self.device), use_cache=False).logits
        return logits

    def logits_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Next-token logits (B, T, V) of many batches (B, T)."""
        return map(self.logits, batches)

    def hidden_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Hidden states (B, T, I) behind the last block, of many batches (B, T). `head` turns them into logits."""
        return map(self._hidden, batches)

    @torch.no_grad()
    def _hidden(self, ids_BT: Tensor) -> Tensor:
        found: list[Tensor] = []

        def look(module: nn.Module, args: Any, output: Any) -> None:
            found.append(hidden_of(output))
            raise _Stop

        handle = self.blocks[-1].module.register_forward_hook(look)
        try:
            self.model(input_ids=ids_BT.to(self.device), use_cache=False)
        except _Stop:
            pass
        finally:
            handle.remove()
        return found[0]

    def culprit(self, ids_BT: Tensor) -> str:
        """The name of the first module whose output on these ids holds a NaN or an infinity, for a message."""
        found: list[str] = []

        def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(module: nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, Tensor) and not output.isfinite().all():
                    found.append(name)

            return look

        handles = [module.register_forward_hook(hook(name)) for name, module in self.model.named_modules() if name]
        try:
            self.logits(ids_BT)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else "no module"

    @torch.no_grad()
    def record(self, ids_BT: Tensor) -> tuple[Tensor, list[Call]]:
        """The hidden states (B, T, I) in front of the first block, and the call of every block. Runs no block.

        Raises `UserError` if the model does not call each block once, in order.
        """
        wrap = self._wrap
        hidden: list[Tensor] = []
        calls: list[Call] = []
        order: list[int] = []

        def forward(block: Block, hidden_BTI: Tensor, call: Call) -> Any:
            order.append(block.index)
            calls.append(call)
            if block.index == 0:
                hidden.append(hidden_BTI)
            if len(order) == len(self.blocks):
                raise _Stop
            return wrap(hidden_BTI)

        self._run(ids_BT, forward)
        if order != list(range(len(self.blocks))):
            raise UserError(
                f"{type(self.model).__name__} calls its blocks in the order {order}: expected each of its {len(self.blocks)} "
                f"blocks once, in order. A model that repeats or skips blocks cannot be walked"
            )
        return hidden[0], calls

    def outside(self) -> dict[str, Tensor]:
        """The parameters outside the blocks, by name, without the token embeddings if the head does not share them."""
        inside = {id(p) for block in self.blocks for p in block.module.parameters()}
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        if head is None or head.weight is not embedding.weight:
            inside.add(id(embedding.weight))
        return {name: p.detach() for name, p in self.model.named_parameters() if id(p) not in inside}

    def head(self, ids_BT: Tensor, hidden_BTI: Tensor, outside: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits (B, T, V) of hidden states behind the last block, through final norm, projections and soft-caps.

        `outside`: parameters to use instead of the model's own outside the blocks, on its device. Differentiable.
        """
        wrap, last, hidden_BTI = self._wrap, len(self.blocks) - 1, hidden_BTI.to(self.device)

        def forward(block: Block, passed_BTI: Tensor, call: Call) -> Any:
            return wrap(hidden_BTI if block.index == last else passed_BTI)

        logits: Tensor = self._run(ids_BT, forward, outside or {}).logits
        return logits

    @cached_property
    @torch.no_grad()
    def _wrap(self) -> Callable[[Tensor], Any]:
        """A function that wraps hidden states as a block returns them (a tensor, or a tuple that starts with one).

        The form is found by running the first block on two tokens.
        """
        seen: list[Any] = []

        def forward(block: Block, hidden_BTI: Tensor, call: Call) -> Any:
            del block.module.forward
            seen.append(block.module(hidden_BTI, *call.args, **call.kwargs))
            raise _Stop

        with self.blocks[0].on(self.device):
            self._run(torch.zeros(1, 2, dtype=torch.long), forward)
        output = seen[0]
        return (lambda hidden: (hidden, *output[1:])) if isinstance(output, tuple) else (lambda hidden: hidden)

    def _run(
        self,
        ids_BT: Tensor,
        forward: Callable[[Block, Tensor, Call], Any],
        outside: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Any:
        """The output of the model with `forward` instead of every block's own forward; None if `forward` raised `_Stop`."""

        def stand_in(block: Block) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                hidden, rest = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
                return forward(block, hidden, Call(rest, kwargs))

            return call

        for block in self.blocks:
            block.module.forward = stand_in(block)
        asked = {"input_ids": ids_BT.to(self.device), "use_cache": False}
        try:
            return torch.func.functional_call(self.model, dict(outside), (), asked)
        except _Stop:
            return None
        finally:
            for block in self.blocks:
                block.module.__dict__.pop("forward", None)

    def check_finite(self) -> None:
        """Raise `UserError` with the name of the first parameter that holds a NaN or an infinity."""
        for parameters in self.parameters():
            for name, parameter in parameters.items():
                if not parameter.is_meta and not all_finite(parameter):
                    raise UserError(
                        f"{name}: the weights hold NaN or infinity: expected finite numbers. Is the checkpoint damaged?"
                    )

    def fingerprint(self) -> str:
        """The sha256 of the configuration and all parameters. Cached results of the dense model have it in their key."""
        config = self.model.config.to_dict()
        for key in (
            "_name_or_path",
            "transformers_version",
        ):  # the place of the files and the version that saved them do not change what the model computes
            config.pop(key, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        digests: list[tuple[str, Future[str]]] = []
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            for parameters in self.parameters():
                for name, tensor in parameters.items():
                    digests.append((f"{name} {tensor.dtype} {tuple(tensor.shape)}", pool.submit(_digest, tensor)))
                if self.files:  # the block must stay in memory until it is hashed
                    wait([of_tensor for _, of_tensor in digests])
        for what, of_tensor in digests:
            digest.update(f"{what} {of_tensor.result()}".encode())
        return digest.hexdigest()


def _digest(tensor_N: Tensor) -> str:
    numbers = tensor_N.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(numbers.data).hexdigest()

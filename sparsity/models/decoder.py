"""A Hugging Face causal language model seen as embedding -> blocks -> head. Architectures are found, not listed.

What a block is, and what in it is pruned, says `blocks`. Tensors of a block that are no linear layer's weight (experts fused into
one 3-D tensor, routers, convolutions) are listed in `unpruned`, never skipped in silence.

*Calls* are recorded, never rebuilt by hand: the model itself runs with its blocks replaced by pass-throughs, and each block's own
arguments are kept. Blocks may receive different ones: sliding windows (Gemma 2, Mistral, Qwen) or rotary tables (Gemma 3).
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
    """How the model called a block, without the hidden states."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self, module: Callable[..., Any], hidden_BTI: Tensor) -> Tensor:
        return hidden_of(module(hidden_BTI, *self.args, **self.kwargs))

    def map(self, fn: Callable[[Tensor], Tensor]) -> Call:
        return Call(map_tensors(fn, self.args), map_tensors(fn, self.kwargs))


def hidden_of(output: Any) -> Tensor:
    """The hidden states in a block's return value: a tensor, or a tuple that starts with it."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def map_tensors(fn: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`fn` of every tensor in nested tuples, lists and dicts; anything else as it is."""
    if isinstance(value, Tensor):
        return fn(value)
    if type(value) in (tuple, list):
        return type(value)(map_tensors(fn, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(fn, v) for k, v in value.items()}
    return value


class _Stop(Exception):
    """Leaves the model's forward once the last block was reached: nobody needs its logits."""


class Decoder:
    """The model, its blocks, and the view of every weight as (O, I). Owns no text and has never heard of pruning."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        files: Files | None = None,
    ):
        """`tokenizer` is for evaluators that read text of their own; `files`: where the blocks' weights are, if not in it."""
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
        return self.embedding_VE.device

    @property
    def embedding_VE(self) -> Tensor:
        """The token embeddings, which pruning never touches."""
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """The model on `device`, but for blocks that rest in files, and back where it was afterwards."""
        home = self.device
        self._move(device)
        try:
            yield
        finally:
            self._move(home)

    def _move(self, device: torch.device) -> None:
        self.model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))

    def block(self, index: int) -> Block:
        """One of the blocks; the output head comes behind the last."""
        return self.blocks[index] if index < len(self.blocks) else self.head_block

    def layer(self, site: Site) -> Layer:
        """The weight is there while its block is at hand; its shape always is."""
        return self.block(site.block).layer(site)

    def layers(self, sites: Sequence[Site]) -> Iterator[Layer]:
        """The layers of these sites, which are in the order of the model. Each is at hand until the next is asked for."""
        for index, its in groupby(sites, key=lambda site: site.block):
            with self.block(index).at_hand():
                yield from map(self.block(index).layer, its)

    def parameters(self) -> Iterator[dict[str, Tensor]]:
        """All parameters by name, in the model's order: those of a block together, and at hand until the next are asked for."""
        names = [name for name, _ in self.model.named_parameters()]
        blocks = {f"{block.name}.{n}": block.index for block in self.blocks for n, _ in block.module.named_parameters()}
        for index, its in groupby(names, key=blocks.get):
            with nullcontext() if index is None else self.blocks[index].at_hand():
                yield {name: self.model.get_parameter(name).detach() for name in its}

    @cached_property
    def head_block(self) -> Block:
        """The output head, as a block of one layer. Raises `UserError` where it shares the embedding's weight."""
        head = self.model.get_output_embeddings()
        name = next((name for name, module in self.model.named_modules() if module is head), "the output head")
        if not isinstance(head, nn.Linear):
            raise UserError(f"{name} is {type(head).__name__}: expected a linear layer. Leave scope.lm_head=false")
        if head.weight is self.model.get_input_embeddings().weight:
            raise UserError(
                f"{name} shares its weight with the token embeddings (tie_word_embeddings), so pruning it would prune them: "
                f"expected a head of its own. Leave scope.lm_head=false for this model"
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
        """The same of each of some batches."""
        return map(self.logits, batches)

    def hidden_of(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The hidden states (B, T, I) behind the last block, of each of some batches: what `head` takes."""
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
        """The first module whose output on these ids holds a NaN or an infinity, for a message."""
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
        """The hidden states (B, T, I) in front of the first block, and every block's own call. Runs no block."""
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
        """The parameters outside the blocks, by name, but for token embeddings that the head does not share."""
        inside = {id(p) for block in self.blocks for p in block.module.parameters()}
        embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
        if head is None or head.weight is not embedding.weight:
            inside.add(id(embedding.weight))
        return {name: p.detach() for name, p in self.model.named_parameters() if id(p) not in inside}

    def head(self, ids_BT: Tensor, hidden_BTI: Tensor, outside: Mapping[str, Tensor] | None = None) -> Tensor:
        """The model's logits given the hidden states behind its last block: final norm, projections, soft-caps and all.

        `outside`: parameters outside the blocks to use instead of the model's own, on its device. Differentiable.
        """
        wrap, last, hidden_BTI = self._wrap, len(self.blocks) - 1, hidden_BTI.to(self.device)

        def forward(block: Block, passed_BTI: Tensor, call: Call) -> Any:
            return wrap(hidden_BTI if block.index == last else passed_BTI)

        logits: Tensor = self._run(ids_BT, forward, outside or {}).logits
        return logits

    @cached_property
    @torch.no_grad()
    def _wrap(self) -> Callable[[Tensor], Any]:
        """Hidden states in the shape of a block's return value, a tensor or a tuple that starts with it: seen on two tokens."""
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
        """The model's own forward with `forward` in the place of every block's. None if it was left early."""

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
        """Raise `UserError` naming the first tensor that holds a NaN or an infinity."""
        for named in self.parameters():
            for name, parameter in named.items():
                if not parameter.is_meta and not all_finite(parameter):
                    raise UserError(
                        f"{name}: the weights hold NaN or infinity: expected finite numbers. Is the checkpoint damaged?"
                    )

    def fingerprint(self) -> str:
        """sha256 over the configuration and every parameter: what the dense model's results are filed under."""
        config = self.model.config.to_dict()
        for key in (
            "_name_or_path",
            "transformers_version",
        ):  # where it lay and who saved it do not change what it computes
            config.pop(key, None)
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        told: list[tuple[str, Future[str]]] = []
        with ThreadPoolExecutor() as pool:  # a digest is taken without the interpreter's lock
            for named in self.parameters():
                for name, tensor in named.items():
                    told.append((f"{name} {tensor.dtype} {tuple(tensor.shape)}", pool.submit(_digest, tensor)))
                if self.files:  # a block is held in memory until its digests are taken
                    wait([of_tensor for _, of_tensor in told])
        for what, of_tensor in told:
            digest.update(f"{what} {of_tensor.result()}".encode())
        return digest.hexdigest()


def _digest(tensor_N: Tensor) -> str:
    numbers = tensor_N.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(numbers.data).hexdigest()

"""The hidden states of the calibration text, held in front of one decoder block at a time.

    observe   run the block on them and fold the statistics that were asked for, from hooks
    advance   hidden <- block(hidden)

`propagate="pruned"`: a block sees what the pruned blocks before it put out, as Wanda and SparseGPT do; two passes a block.
`propagate="dense"`: a block sees the dense model's activations; observing and advancing is one pass.
The stream has never heard of pruning. Memory: the hidden states and one copy of each distinct argument of the blocks.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .core import Folded, Site, Stats, Tap, UserError
from .models.decoder import Block, Call, Decoder

Propagate = Literal["pruned", "dense"]
Needs = Mapping[Site, Collection[Tap[Any]]]


class BlockStream:
    """Hidden states and the blocks' recorded calls. `ids_BT` None: a stream for methods that need no text."""

    def __init__(
        self, decoder: Decoder, ids_BT: Tensor | None, *, batch_size: int, propagate: Propagate, device: torch.device
    ):
        self.blocks = decoder.blocks
        self.device = device
        self.propagate = propagate
        self.forwards = 0  # blocks run, times batches
        self.seconds = 0.0
        self._passed: list[Tensor] | None = None  # what the dense block put out while it was observed
        self.hidden: list[Tensor] = []
        self._calls: list[list[Call]] = []
        with self._timed():
            shared = _Shared(device)
            for ids in () if ids_BT is None else ids_BT.split(batch_size):
                hidden_BTI, calls = decoder.record(ids)
                self.hidden.append(hidden_BTI.to(device))
                self._calls.append([call.map(shared) for call in calls])

    @torch.no_grad()
    def _run(self, block: Block) -> Iterator[tuple[int, Tensor]]:
        for i, hidden_BTI in enumerate(self.hidden):
            output_BTI = self._calls[i][block.index](block.module, hidden_BTI)
            self.forwards += 1
            if not output_BTI.isfinite().all():
                raise UserError(
                    f"{block.name}: its output holds NaN or infinity on calibration batch {i}: expected finite activations. "
                    f"Try dtype=float32, or check the model's weights"
                )
            yield i, output_BTI

    def observe(self, block: Block, needs: Needs) -> dict[Site, Stats]:
        """Fold exactly what `needs` asks of this block's layers. No pass if that is nothing, unless `dense` needs its output."""
        fold = _Fold(block, needs)
        if fold.wanted or self.propagate == "dense":
            with self._timed(), fold.recording():
                passed = []
                for _, output_BTI in self._run(block):
                    fold.batch()
                    if self.propagate == "dense":
                        passed.append(output_BTI)
                self._passed = passed if self.propagate == "dense" else None
        return fold.stats()

    def advance(self, block: Block) -> None:
        """Move the hidden states behind the block, as it is now (`pruned`) or as it was when observed (`dense`)."""
        with self._timed():
            if self._passed is not None:
                self.hidden, self._passed = self._passed, None
            else:
                for i, output_BTI in self._run(block):
                    self.hidden[i] = output_BTI

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = now(self.device)
        try:
            yield
        finally:
            self.seconds += now(self.device) - start


class _Shared:
    """Moves tensors to the device and keeps one of all that are equal: rotary tables and the like repeat in every batch."""

    def __init__(self, device: torch.device):
        self.device = device
        self.kept: dict[tuple[Any, ...], list[Tensor]] = {}

    def __call__(self, x_ANY: Tensor) -> Tensor:
        alike = self.kept.setdefault((x_ANY.shape, x_ANY.dtype, x_ANY.stride()), [])
        x_ANY = x_ANY.to(self.device)
        for other_ANY in alike:
            if other_ANY is x_ANY or torch.equal(other_ANY, x_ANY):
                return other_ANY
        alike.append(x_ANY)
        return x_ANY


class _Fold:
    """The statistics of one block while its batches run. Layers that saw exactly the same tensors share one state."""

    def __init__(self, block: Block, needs: Needs):
        self.block = block
        self.needs = needs
        self.wanted = [(site, tap) for site, taps in needs.items() for tap in taps]
        self.folded: dict[tuple[Site, Tap[Any]], Folded] = {}
        self.inputs: dict[Site, list[Tensor]] = {}  # what each layer saw in the current batch, call by call

    @contextmanager
    def recording(self) -> Iterator[None]:
        def hook(site: Site) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
            def record(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                self.inputs.setdefault(site, []).append(args[0] if args else kwargs["input"])

            return record

        sites = dict.fromkeys(site for site, _ in self.wanted)
        modules = {site: self.block.linears[site].module for site in sites}
        handles = [m.register_forward_pre_hook(hook(site), with_kwargs=True) for site, m in modules.items()]
        try:
            yield
        finally:
            self.inputs.clear()
            for handle in handles:
                handle.remove()

    def batch(self) -> None:
        """Fold one batch. A state is written in place, so layers part company (a copy) when one saw tensors that others did not."""
        holders = Counter(id(folded) for folded in self.folded.values())
        # tap, state and tensors -> the layers that have all three in common
        readers: dict[tuple[Any, ...], list[Site]] = {}
        for site, tap in self.wanted:
            if site in self.inputs:  # an expert may be skipped by a whole batch
                tensors = tuple(map(id, self.inputs[site]))
                readers.setdefault((tap, id(self.folded.get((site, tap))), tensors), []).append(site)
        for (tap, *_), sites in readers.items():
            inputs, folded = self.inputs[sites[0]], self.folded.get((sites[0], tap))
            if folded is None:
                folded = Folded(tap.statistic.zero(inputs[0]))
            elif len(sites) < holders[id(folded)]:
                folded = copy.deepcopy(folded)
            for x_BTI in inputs:
                folded.state = tap.statistic.add(folded.state, x_BTI)
            self.folded |= {(site, tap): folded for site in sites}
        self.inputs.clear()

    def stats(self) -> dict[Site, Stats]:
        for site, tap in self.wanted:
            if (site, tap) not in self.folded:
                raise UserError(
                    f"{site.name} saw no calibration token, so it has no {tap.statistic}. Use more calibration text"
                )
            if not tap.statistic.finite(self.folded[site, tap].state):
                raise UserError(
                    f"{site.name}: its calibration inputs hold NaN or infinity: expected finite activations. "
                    f"Try dtype=float32, or check the model's weights"
                )
        return {site: Stats(site, {tap: self.folded[site, tap] for tap in taps}) for site, taps in self.needs.items()}


def now(device: torch.device) -> float:
    """Seconds on a clock, once everything that was asked of the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()

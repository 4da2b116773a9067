"""The hidden states of the calibration text in front of one decoder block at a time.

    observe   run the block on them, and fold the requested statistics with hooks
    advance   hidden <- block(hidden)

`propagate="pruned"`: a block gets the outputs of the pruned blocks before it, as in Wanda and SparseGPT. This takes two passes per
block. The observing pass ends at the last input that is needed, so the down projection of an MLP runs only once.
`propagate="dense"`: a block gets the dense model's activations. One pass both observes and advances.
`target`: the outputs of the dense block are kept too, for a refinement to match: the outputs for the same inputs ("own"), or those
of the dense model ("dense"), whose hidden states are then also computed, in a third pass per block.
The stream knows nothing about pruning. Memory: the hidden states, and one copy of each distinct argument of the blocks; with a
target, twice or three times as many hidden states.

With several processes, each one holds a part of the batches and folds it; the batches are the same as with one process. The states
are merged when a block is observed, so its statistics are in memory twice. The first process computes the labels of a grouping,
because they depend on the whole text.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from .core import Folded, Grouping, Side, Site, Stats, Tap, UserError
from .linalg import all_finite
from .models.blocks import Block
from .models.decoder import Call, Decoder
from .processes import ALONE, Processes

Propagate = Literal["pruned", "dense"]
Target = Literal["own", "dense"]
Reader = tuple[Site, Tap[Any]]
Needs = Mapping[Site, Collection[Tap[Any]]]


class Passage(NamedTuple):
    """The inputs of a block and the outputs that it should have, (B, T, I) for each batch."""

    calls: list[Call]
    inputs: list[Tensor]
    targets: list[Tensor]
    sources: list[Tensor]  # the inputs for which the dense block gave the targets


class Stream(Protocol):
    """The interface through which the engine gets statistics: a `BlockStream`, or statistics from the cache."""

    @property
    def blocks(self) -> tuple[Block, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def seconds(self) -> float:
        """Seconds spent in the stream so far."""
        ...

    @property
    def forwards(self) -> int:
        """Number of blocks run so far, times batches."""
        ...

    def carried(self) -> Iterator[Tensor]:
        """The hidden states (B, T, I) of all processes in front of the next block, for a resume checkpoint; may be none."""
        ...

    def carry(self, states: Iterable[Tensor]) -> None:
        """Continue with these hidden states, which `carried` gave in an earlier run. Takes from the iterator what it needs."""
        ...

    def observe(self, block: Block, needs: Needs) -> dict[Site, Stats]:
        """The statistics of this block's layers that `needs` asks for."""
        ...

    def passage(self, block: Block) -> Passage:
        """The inputs and targets for tuning this block. Call after `observe` and before `advance`."""
        ...

    def advance(self, block: Block) -> None:
        """Move the hidden states behind this block. Call after `observe`, and after the block was pruned."""
        ...


def collect(stream: Stream, needs: Needs) -> Iterator[tuple[Block, dict[Site, Stats]]]:
    """The statistics in `needs`, block by block, up to the last block that needs any. No block is changed."""
    last = max((site.block for site, taps in needs.items() if taps), default=-1)
    for block in stream.blocks[: last + 1]:
        with block.on(stream.device):
            asked = {site: needs[site] for site in block.linears if needs.get(site)}
            stats = stream.observe(block, asked)
            if block.index < last:
                stream.advance(block)
        if asked:
            yield block, stats


class BlockStream:
    """The stream that runs the blocks. It holds the hidden states and the recorded calls of the blocks.

    `ids_BT`: the text; None for methods that need none.
    """

    def __init__(
        self,
        decoder: Decoder,
        ids_BT: Tensor | None,
        *,
        batch_size: int,
        propagate: Propagate,
        device: torch.device,
        target: Target | None = None,
        processes: Processes = ALONE,
        text: str = "calibration",
    ):
        """`text`: the name of the text in messages."""
        self.blocks = decoder.blocks
        self.ids_BT = ids_BT
        self.embedding_VE = decoder.embedding_VE
        self.device = device
        self.propagate = propagate
        self.target = target
        self.text = text
        self.forwards = 0  # blocks run, times batches
        self.seconds = 0.0
        self._passed: list[Tensor] | None = None  # outputs of the dense block for `hidden`, kept by `observe`
        self.hidden: list[Tensor] = []
        self._dense: list[Tensor] = []  # the dense model's hidden states, if they differ from `hidden`
        self._behind: list[Tensor] = []  # outputs of the dense block for `_dense`
        self._calls: list[list[Call]] = []
        self._labels: dict[Grouping, tuple[int, tuple[Tensor, ...]]] = {}
        self._batch_size = batch_size
        self._processes = processes
        with self._timed():
            shared = _Shared(device)
            for ids in () if ids_BT is None else self._mine(ids_BT):
                hidden_BTI, calls = decoder.record(ids)
                self.hidden.append(hidden_BTI.to(device))
                self._calls.append([call.map(shared) for call in calls])
        self._apart = target == "dense" and propagate == "pruned"
        if self._apart:
            self._dense = [*self.hidden]

    def _mine(self, whole_BT: Tensor) -> tuple[Tensor, ...]:
        """This process's batches of a tensor that has one row per sequence."""
        batches: tuple[Tensor, ...] = whole_BT.split(self._batch_size)
        return batches[self._processes.part(len(batches))]

    def carried(self) -> Iterator[Tensor]:
        yield from self._processes.each(self.hidden)
        yield from self._processes.each(self._dense)

    def carry(self, states: Iterable[Tensor]) -> None:
        if self.ids_BT is None:  # no text was needed, so there are no states
            return
        batches = len(self.ids_BT.split(self._batch_size))
        mine = range(batches)[self._processes.part(batches)]
        every = range(batches * (2 if self._apart else 1))
        kept = [state_BTI.to(self.device) for i, state_BTI in zip(every, states, strict=False) if i % batches in mine]
        self.hidden, self._dense = kept[: len(mine)], kept[len(mine) :]

    @torch.no_grad()
    def _run(self, block: Block, i: int, hidden_BTI: Tensor) -> Tensor:
        """The block's output for batch `i`. Raises `UserError` if it holds a NaN or an infinity."""
        self.forwards += 1
        output_BTI = self._calls[i][block.index](block.module, hidden_BTI)
        if not all_finite(output_BTI):
            raise UserError(
                f"{block.name}: its output holds NaN or infinity on {self.text} batch {i}: expected finite activations. "
                f"Try dtype=float32, or check the model's weights"
            )
        return output_BTI

    def observe(self, block: Block, needs: Needs) -> dict[Site, Stats]:
        """The statistics in `needs` for this block's layers. If there are none, the block runs only if its output is kept."""
        fold = _Fold(block, needs, self._processes)
        labels = {grouping: self._labels_of(grouping) for grouping in fold.groupings}
        keeps = self.propagate == "dense" or self.target == "own"
        if fold.wanted or keeps:
            with self._timed(), fold.recording(whole=keeps):
                passed = []
                for i, hidden_BTI in enumerate(self.hidden):
                    with suppress(_Enough):
                        passed.append(self._run(block, i, hidden_BTI))
                    batch = {grouping: (rows, batches[i]) for grouping, (rows, batches) in labels.items()}
                    fold.batch(hidden_BTI.shape[:2], batch)
                    if not keeps:
                        passed.clear()
                self._passed = passed if keeps else None
        if self._dense:
            with self._timed():
                self._behind = [self._run(block, i, hidden_BTI) for i, hidden_BTI in enumerate(self._dense)]
        with self._timed():
            return fold.stats()

    def passage(self, block: Block) -> Passage:
        """The inputs and targets for tuning this block. Raises `ValueError` if no outputs were kept."""
        targets = self._behind or self._passed
        if not targets:
            raise ValueError(
                f"{block.name}: nothing was kept to match: expected a stream with a target, and an observed block"
            )
        return Passage([calls[block.index] for calls in self._calls], self.hidden, targets, self._dense or self.hidden)

    def advance(self, block: Block) -> None:
        """Move the hidden states behind the block: the block as it is now (`pruned`), or as it was when observed (`dense`)."""
        with self._timed():
            if self.propagate == "dense" and self._passed is not None:
                self.hidden = self._passed
            else:
                for i, hidden_BTI in enumerate(self.hidden):
                    self.hidden[i] = self._run(block, i, hidden_BTI)
            if self._dense and self._behind:
                self._dense = self._behind
            self._passed, self._behind = None, []

    def _labels_of(self, grouping: Grouping) -> tuple[int, tuple[Tensor, ...]]:
        """The number of rows, and the labels of each batch. Computed once, because they depend on the text, not on the block."""
        if grouping not in self._labels:
            assert self.ids_BT is not None
            labels_BT = self._processes.first(grouping.labels(self.ids_BT, self.embedding_VE))
            self._labels[grouping] = int(labels_BT.max()) + 1, self._mine(labels_BT.to(self.device))
        return self._labels[grouping]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = now(self.device)
        try:
            yield
        finally:
            self.seconds += now(self.device) - start


class _Shared:
    """Moves tensors to the device, and keeps only one of equal tensors: rotary tables, for example, repeat in every batch."""

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


class _Enough(Exception):
    """Ends the pass through a block when all folded modules were seen and the block's output is not needed."""


class _Fold:
    """The statistics of one block while its batches run. Layers that saw exactly the same tensors share one state.

    If the block's output is not needed, a batch ends at the last module that is folded. The first batch always runs to the end: it
    shows that each module is called once.
    """

    def __init__(self, block: Block, needs: Needs, processes: Processes = ALONE):
        self.block = block
        self.needs = needs
        self.processes = processes
        self.wanted = [(site, tap) for site, taps in needs.items() for tap in taps]
        self.groupings = {g for _, tap in self.wanted if (g := tap.statistic.grouping) is not None}
        self.folded: dict[Reader, Folded] = {}
        self.seen: dict[tuple[str, Side], list[Tensor]] = {}  # the current batch at each module, call by call
        self.sources = dict.fromkeys(tap.source(site) for site, tap in self.wanted)
        self.whole = True
        self.leaves = False  # True: a batch ends as soon as all sources were seen

    @contextmanager
    def recording(self, *, whole: bool) -> Iterator[None]:
        """A context in which hooks record the activations to fold. `whole`: every batch runs to the end of the block."""
        self.whole, handles = whole, []
        for name, side in self.sources:
            module, seen = self.block.part(name), partial(self._see, (name, side))
            if side == "input":
                hook = lambda module, args, kwargs, seen=seen: seen(args[0] if args else kwargs["input"])  # noqa: E731
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(lambda module, args, output, seen=seen: seen(output)))
        try:
            yield
        finally:
            self.seen.clear()
            for handle in handles:
                handle.remove()

    def _see(self, source: tuple[str, Side], x_BTI: Tensor) -> None:
        self.seen.setdefault(source, []).append(x_BTI)
        if self.leaves and len(self.seen) == len(self.sources):
            raise _Enough

    def batch(self, shape: tuple[int, ...], labels: Mapping[Grouping, tuple[int, Tensor]]) -> None:
        """Fold one batch. States are written in place, so a shared state is copied when its layers saw different tensors.

        `shape`: numbers of sequences and tokens; `labels`: for each grouping, the number of rows and the labels of the batch.
        """
        holders = Counter(id(folded) for folded in self.folded.values())
        # statistic, state and tensors -> the readers that have all three in common
        readers: dict[tuple[Any, ...], list[Reader]] = {}
        for site, tap in self.wanted:
            if tap.source(site) in self.seen:  # a batch may send no token to an expert
                tensors = tuple(map(id, self.seen[tap.source(site)]))
                readers.setdefault((tap.statistic, id(self.folded.get((site, tap))), tensors), []).append((site, tap))
        for (statistic, *_), common in readers.items():
            site, tap = common[0]
            seen, folded = self.seen[tap.source(site)], self.folded.get((site, tap))
            rows, labels_BT = labels[statistic.grouping] if statistic.grouping else (0, None)
            if folded is None:
                folded = Folded(statistic.zero(seen[0], rows))
            elif len(common) < holders[id(folded)]:
                folded = copy.deepcopy(folded)
            for x_BTI in seen:
                if labels_BT is not None:
                    x_BTI = _in_sequences(x_BTI, shape, site)
                folded.state = statistic.add(folded.state, x_BTI, labels_BT)
            self.folded |= dict.fromkeys(common, folded)
        once = all(len(self.seen.get(source, ())) == 1 for source in self.sources)
        self.leaves = once and not self.whole
        self.seen.clear()

    def stats(self) -> dict[Site, Stats]:
        """The statistics by site, merged over all processes. Raises `UserError` if one is missing or not finite."""
        self.folded = merged(self.processes, self.wanted, self.folded)
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
        shared = {site: {tap: self.folded[site, tap] for tap in taps} for site, taps in self.needs.items()}
        return {site: Stats(site, folded, processes=self.processes) for site, folded in shared.items()}


def merged(processes: Processes, readers: Collection[Reader], folded: Mapping[Reader, Folded]) -> dict[Reader, Folded]:
    """The state of each reader, merged over all processes. Readers that share a state in every process share the merged one.

    `readers` must be the same in all processes. A reader without a state in any process is left out.
    """
    numbers = {id(each): i for i, each in enumerate(folded.values())}
    mine = [numbers[id(folded[reader])] if reader in folded else None for reader in readers]
    everyone = [json.loads(theirs) for theirs in processes.words(json.dumps(mine))]
    found: dict[Reader, Folded] = {}
    known: dict[tuple[int | None, ...], Folded] = {}
    for reader, states in zip(readers, zip(*everyone, strict=True), strict=True):
        if all(state is None for state in states):
            continue
        if states not in known:
            statistic, own = reader[1].statistic, folded.get(reader)
            like = partial(statistic.zero, torch.empty(1, 1, 1, device="meta"), 1)
            known[states] = Folded(processes.merged(own and own.state, statistic.merge, like))
        found[reader] = known[states]
    return found


def _in_sequences(x_BTI: Tensor, shape: tuple[int, ...], site: Site) -> Tensor:
    """The activations as (B, T, I). Some models flatten them: OPT runs its MLP on (B T, I)."""
    if x_BTI.shape[:-1].numel() != math.prod(shape):
        raise UserError(
            f"{site.name} sees {x_BTI.shape[:-1].numel()} of a batch's {math.prod(shape)} tokens, so they cannot be told apart "
            f"by document or topic: expected every token. Leave the layer out (scope.skip) or route it elsewhere"
        )
    return x_BTI.reshape(*shape, x_BTI.shape[-1])


def now(device: torch.device) -> float:
    """The seconds of a clock, read when the device has finished all its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()

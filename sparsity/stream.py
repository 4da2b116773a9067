"""The hidden states of the calibration text, held in front of one decoder block at a time.

    observe   run the block on them and fold the statistics that were asked for, from hooks
    advance   hidden <- block(hidden)

`propagate="pruned"`: a block sees what the pruned blocks before it put out, as Wanda and SparseGPT do; two passes a block, of which
the observing one is left at the last input that was asked for: the down projection of an MLP is run once.
`propagate="dense"`: a block sees the dense model's activations; observing and advancing is one pass.
`target`: it also keeps what a dense block puts out while it is observed, for whoever wants to match that: from the same inputs
("own"), or from the dense model's ("dense"), whose hidden states are then carried along, a third pass a block.
The stream has never heard of pruning. Memory: the hidden states and one copy of each distinct argument of the blocks; with a
target, twice or three times as many hidden states.

Of several processes each holds a run of the batches that one would hold, cut where they are, and folds those; what they folded is
merged when the block is observed, for which a block's statistics are held twice. The labels are the first one's, since they are
of the whole text.
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
    """What goes into a block and what should come out of it, batch by batch: (B, T, I) each."""

    calls: list[Call]
    inputs: list[Tensor]
    targets: list[Tensor]
    sources: list[Tensor]  # what the dense block turned into the targets


class Stream(Protocol):
    """What the engine walks along: a `BlockStream`, or what knows the answers already."""

    @property
    def blocks(self) -> tuple[Block, ...]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def seconds(self) -> float:
        """Spent in it so far."""
        ...

    @property
    def forwards(self) -> int:
        """Blocks run so far, times batches."""
        ...

    def carried(self) -> Iterator[Tensor]:
        """All hidden states (B, T, I) in front of the next block, of all processes; none where they are not needed."""
        ...

    def carry(self, states: Iterable[Tensor]) -> None:
        """Go on with the next of these, as many as `carried` gave elsewhere."""
        ...

    def observe(self, block: Block, needs: Needs) -> dict[Site, Stats]:
        """The statistics of this block's layers that `needs` asks for."""
        ...

    def passage(self, block: Block) -> Passage:
        """Of this block, which was observed: through it as it is now, towards what the dense one put out."""
        ...

    def advance(self, block: Block) -> None:
        """Move on behind the block, which was observed and pruned."""
        ...


def collect(stream: Stream, needs: Needs) -> Iterator[tuple[Block, dict[Site, Stats]]]:
    """What is needed of every block, up to the last of which anything is. No block is changed."""
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
    """Hidden states and the blocks' recorded calls. `ids_BT` None: a stream for methods that need no text."""

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
        """`text`: what it is called in a message."""
        self.blocks = decoder.blocks
        self.ids_BT = ids_BT
        self.embedding_VE = decoder.embedding_VE
        self.device = device
        self.propagate = propagate
        self.target = target
        self.text = text
        self.forwards = 0  # blocks run, times batches
        self.seconds = 0.0
        self._passed: list[Tensor] | None = None  # what the dense block put out while it was observed
        self.hidden: list[Tensor] = []
        self._dense: list[Tensor] = []  # the dense model's hidden states, where they are others
        self._behind: list[Tensor] = []  # what they become
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
        """This process's batches of what there is of every sequence."""
        batches: tuple[Tensor, ...] = whole_BT.split(self._batch_size)
        return batches[self._processes.part(len(batches))]

    def carried(self) -> Iterator[Tensor]:
        yield from self._processes.each(self.hidden)
        yield from self._processes.each(self._dense)

    def carry(self, states: Iterable[Tensor]) -> None:
        assert self.ids_BT is not None
        batches = len(self.ids_BT.split(self._batch_size))
        mine = range(batches)[self._processes.part(batches)]
        every = range(batches * (2 if self._apart else 1))
        kept = [state_BTI.to(self.device) for i, state_BTI in zip(every, states, strict=False) if i % batches in mine]
        self.hidden, self._dense = kept[: len(mine)], kept[len(mine) :]

    @torch.no_grad()
    def _run(self, block: Block, i: int, hidden_BTI: Tensor) -> Tensor:
        """What the block makes of batch `i`."""
        self.forwards += 1
        output_BTI = self._calls[i][block.index](block.module, hidden_BTI)
        if not all_finite(output_BTI):
            raise UserError(
                f"{block.name}: its output holds NaN or infinity on {self.text} batch {i}: expected finite activations. "
                f"Try dtype=float32, or check the model's weights"
            )
        return output_BTI

    def observe(self, block: Block, needs: Needs) -> dict[Site, Stats]:
        """Fold exactly what `needs` asks of this block's layers. No pass if that is nothing, unless `dense` needs its output."""
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
        """See `Stream`. Raises `ValueError` if no outputs were kept."""
        targets = self._behind or self._passed
        if not targets:
            raise ValueError(
                f"{block.name}: nothing was kept to match: expected a stream with a target, and an observed block"
            )
        return Passage([calls[block.index] for calls in self._calls], self.hidden, targets, self._dense or self.hidden)

    def advance(self, block: Block) -> None:
        """Move the hidden states behind the block, as it is now (`pruned`) or as it was when observed (`dense`)."""
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
        """The number of rows, and the labels of every batch. Made once: they depend on the text, not on the block."""
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


class _Enough(Exception):
    """Leaves a block once all that is folded was seen: nobody needs its output."""


class _Fold:
    """The statistics of one block while its batches run. Layers that saw exactly the same tensors share one state.

    Where the output is not needed, a batch is left at the last input that is. The first one shows which that is, and that no
    module is called twice: it runs to its end.
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
        self.leaves = False  # the batch, once all sources were seen

    @contextmanager
    def recording(self, *, whole: bool) -> Iterator[None]:
        """While it lasts, what the block's modules see is folded. `whole`: every batch runs to the end of the block."""
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
        """Fold one batch. A state is written in place, so layers part company (a copy) when one saw tensors that others did not.

        `shape`: sequences and tokens; `labels`: of each grouping, the number of rows and the batch's labels.
        """
        holders = Counter(id(folded) for folded in self.folded.values())
        # statistic, state and tensors -> the readers that have all three in common
        readers: dict[tuple[Any, ...], list[Reader]] = {}
        for site, tap in self.wanted:
            if tap.source(site) in self.seen:  # an expert may be skipped by a whole batch
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
    """Of each reader, the states of all processes as one. Readers share it if they shared theirs in every process.

    `readers`: the same everywhere. One that has no state anywhere is left out.
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
    """The activations as (B, T, I): OPT, for one, runs its MLP on all tokens in one row."""
    if x_BTI.shape[:-1].numel() != math.prod(shape):
        raise UserError(
            f"{site.name} sees {x_BTI.shape[:-1].numel()} of a batch's {math.prod(shape)} tokens, so they cannot be told apart "
            f"by document or topic: expected every token. Leave the layer out (scope.skip) or route it elsewhere"
        )
    return x_BTI.reshape(*shape, x_BTI.shape[-1])


def now(device: torch.device) -> float:
    """Seconds on a clock, once everything that was asked of the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()

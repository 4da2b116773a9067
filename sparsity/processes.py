"""Several processes that prune one model together, each with a part of the text and of every layer's rows; or one with everything.

Work is split in the order of the ranks: of n items, process r has those from floor(n r / size) to floor(n (r + 1) / size). All
exchanges are broadcasts, by one process after another, and are combined in that order, so all processes get the same bits:

    states   s_0, s_1, ... are merged from the left by the statistic's `merge`, which need not be a sum, so an all-reduce would not
             do. A process receives size - 1 states (a ring all-reduce would move 2 (size - 1) / size of one), and holds two of them
             beside the merged one (a gather would hold `size`).
    rows     are joined: each process sends the results for its own rows to all others.

Tensors travel as bytes, whatever their dtype; messages as text or JSON. Only this file uses torch.distributed: gloo between CPUs,
NCCL between GPUs, one GPU per process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

S = TypeVar("S")
J = TypeVar("J")  # a JSON value
PATIENCE = timedelta(days=30)  # others wait while the first one evaluates; torchrun itself ends all when one dies


class Processes(Protocol):
    """The processes that share a run, seen from one of them."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0. Process 0 writes files, prints and evaluates."""
        ...

    @property
    def size(self) -> int: ...

    def part(self, count: int) -> slice:
        """This process's part of `count` items. It may be empty."""
        ...

    def words(self, mine: str) -> list[str]:
        """The messages of all processes, by rank. `mine`: the message of this one."""
        ...

    def agreed(self, mine: J) -> J:
        """The JSON value of the first process, in all of them. What the others give is not read."""
        ...

    def merged(self, state: S | None, merge: Callable[[S, S], S], like: Callable[[], S]) -> S:
        """The states of all processes, merged in the order of the ranks.

        A state is a tensor, or a named tuple of tensors and numbers; `like()` gives one of the same type. None: this process has
        no state; at least one process must have one.
        """
        ...

    def joined(self, part_PI: Tensor, count: int) -> Tensor:
        """All `count` rows, joined from the parts of all processes. `part_PI`: the P rows of this process."""
        ...

    def each(self, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        """The tensors of all processes, one at a time, by rank. The caller must exhaust the iterator."""
        ...

    def first(self, x_ANY: Tensor) -> Tensor:
        """The first process's tensor. All processes pass a tensor of the same shape and dtype."""
        ...


class Alone:
    """A single process, which has everything."""

    rank, size = 0, 1

    def part(self, count: int) -> slice:
        return slice(0, count)

    def words(self, mine: str) -> list[str]:
        return [mine]

    def agreed(self, mine: J) -> J:
        return mine

    def merged(self, state: S | None, merge: Callable[[S, S], S], like: Callable[[], S]) -> S:
        assert state is not None
        return state

    def joined(self, part_PI: Tensor, count: int) -> Tensor:
        return part_PI

    def each(self, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        yield from tensors

    def first(self, x_ANY: Tensor) -> Tensor:
        return x_ANY


ALONE = Alone()


class Group:
    """One process of several. All of them must call the same methods in the same order."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

    def part(self, count: int) -> slice:
        return part(count, self.rank, self.size)

    def words(self, mine: str) -> list[str]:
        letters = torch.frombuffer(bytearray(mine.encode() + b"\n"), dtype=torch.uint8)  # never empty
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(letters)]))
        longest = max(int(length) for length in lengths)
        said = [letters.new_empty(longest) for _ in range(self.size)]
        dist.all_gather(said, torch.nn.functional.pad(letters, (0, longest - len(letters))))
        return [bytes(word[: int(n) - 1].tolist()).decode() for word, n in zip(said, lengths, strict=True)]

    def agreed(self, mine: J) -> J:
        said = self.words(json.dumps(mine) if self.rank == 0 else "")
        return cast(J, json.loads(said[0]))

    def merged(self, state: S | None, merge: Callable[[S, S], S], like: Callable[[], S]) -> S:
        parts: list[Any] = [] if state is None else [*state] if isinstance(state, tuple) else [state]
        numbers = [None if isinstance(part, Tensor) else part for part in parts]
        kind, arriving = like(), self.each([part for part in parts if isinstance(part, Tensor)])
        total = None
        for theirs in map(json.loads, self.words(json.dumps(numbers))):
            if theirs:
                found = [next(arriving) if number is None else number for number in theirs]
                other = cast(S, type(kind)(*found) if isinstance(kind, tuple) else found[0])
                total = other if total is None else merge(total, other)
        assert total is not None
        assert next(arriving, None) is None
        return total

    def joined(self, part_PI: Tensor, count: int) -> Tensor:
        whole_OI = part_PI.new_empty(count, *part_PI.shape[1:])
        whole_OI[self.part(count)] = part_PI
        for rank in range(self.size):
            _broadcast(whole_OI[part(count, rank, self.size)], rank)
        return whole_OI

    def each(self, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        kinds = [(list(x.shape), str(x.dtype).removeprefix("torch."), x.device.type) for x in tensors]
        for rank, theirs in enumerate(map(json.loads, self.words(json.dumps(kinds)))):
            for i, (shape, dtype, device) in enumerate(theirs):
                if rank == self.rank:
                    x_ANY = tensors[i].contiguous()
                else:
                    x_ANY = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
                _broadcast(x_ANY, rank)
                yield x_ANY

    def first(self, x_ANY: Tensor) -> Tensor:
        x_ANY = (
            x_ANY.contiguous() if self.rank == 0 else torch.empty(x_ANY.shape, dtype=x_ANY.dtype, device=x_ANY.device)
        )
        _broadcast(x_ANY, 0)
        return x_ANY


def part(count: int, rank: int, size: int) -> slice:
    """The part of `count` items that process `rank` of `size` has."""
    return slice(count * rank // size, count * (rank + 1) // size)


def _broadcast(x_ANY: Tensor, rank: int) -> None:
    """Broadcast a contiguous tensor from process `rank`, in place."""
    if x_ANY.numel():
        dist.broadcast(x_ANY.view(math.prod(x_ANY.shape)).view(torch.uint8), rank)


@contextmanager
def connected(rank: int, size: int) -> Iterator[Processes]:
    """A context with the processes that torchrun has started, or with a single one.

    After an error in one process the connections break, and all others fail too. Only the first process to fail raises its error,
    because it has the cause; the others exit with status 1.
    """
    if size == 1:
        yield ALONE
        return
    store, *_ = next(rendezvous("env://"))
    dist.init_process_group(store=store, rank=rank, world_size=size, timeout=PATIENCE)
    group = Group(rank, size)
    try:
        yield group
        group.words("")  # wait for all: a process that exits closes its connections
    except BaseException:
        failed = 0
        with suppress(RuntimeError):  # the store is gone, because the process that holds it has failed
            failed = store.add("failed", 1)
        if failed != 1:
            raise SystemExit(1) from None
        raise
    dist.destroy_process_group()

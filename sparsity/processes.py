"""Several processes that prune one model together, each with a part of the text and of every layer's rows; or one, with all of it.

What belongs together is cut in the order of the ranks: of n things process r has those from floor(n r / size) on. Everything that
is exchanged is broadcast, by one process after another, and put together in that order, so all end with the same bits:

    states   s_0, s_1, ... are merged from the left. A statistic says what `merge` is, which need not be the sum that an all-reduce
             takes. A process receives size - 1 states, where a ring of sums would move 2 (size - 1) / size of one, and holds two
             beside the merged one, where to gather all would take `size`.
    rows     are joined: what a process solved for its own rows all others receive.

Tensors travel as bytes, of any dtype; words as JSON or text. The one file that knows torch.distributed: gloo between CPUs, NCCL
between GPUs, one to a process.
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
    @property
    def rank(self) -> int:
        """Of this process, from 0. The first one writes, says and evaluates."""
        ...

    @property
    def size(self) -> int: ...

    def part(self, count: int) -> slice:
        """Which of so many things in a row are this process's. None may be."""
        ...

    def words(self, mine: str) -> list[str]:
        """What each of them says, by rank."""
        ...

    def agreed(self, mine: J) -> J:
        """The JSON value of the first process, in all of them. What the others give is not read."""
        ...

    def merged(self, state: S | None, merge: Callable[[S, S], S], like: Callable[[], S]) -> S:
        """The states of all of them, merged in their order: each a tensor, or a named tuple of tensors and numbers as `like()` is.

        None: this process has none; one of them must have.
        """
        ...

    def joined(self, part_PI: Tensor, count: int) -> Tensor:
        """All `count` rows, of which each process gives its own, P of them."""
        ...

    def each(self, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        """The tensors of all of them, one at a time, by rank. To be exhausted."""
        ...

    def first(self, x_ANY: Tensor) -> Tensor:
        """What the first process has in the place of this tensor, which all have in one shape and dtype."""
        ...


class Alone:
    """One process, which has everything."""

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
    """This process among others. Every one of them must call the same methods in the same order."""

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
    return slice(count * rank // size, count * (rank + 1) // size)


def _broadcast(x_ANY: Tensor, rank: int) -> None:
    """In place, into what is contiguous."""
    if x_ANY.numel():
        dist.broadcast(x_ANY.view(math.prod(x_ANY.shape)).view(torch.uint8), rank)


@contextmanager
def connected(rank: int, size: int) -> Iterator[Processes]:
    """All that torchrun started, or this one alone. Of those that fail one passes its error on, the others end with status 1.

    A process that dies takes its connections with it, and one error is soon an error everywhere: the first to fail has the cause.
    """
    if size == 1:
        yield ALONE
        return
    store, *_ = next(rendezvous("env://"))
    dist.init_process_group(store=store, rank=rank, world_size=size, timeout=PATIENCE)
    group = Group(rank, size)
    try:
        yield group
        group.words("")  # they end together: who leaves takes its connections along
    except BaseException:
        failed = 0
        with suppress(RuntimeError):  # the store is gone: another process has failed, and its machine with it
            failed = store.add("failed", 1)
        if failed != 1:
            raise SystemExit(1) from None
        raise
    dist.destroy_process_group()

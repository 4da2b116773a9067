"""Several processes in one: threads that exchange what `Group` would broadcast. And several real ones, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from threading import Barrier
from typing import Any

import torch
from commands import ROOT
from torch import Tensor

from sparsity.processes import Processes, part


class Board:
    """A board on which every process writes, and which every process reads."""

    def __init__(self, size: int):
        self.size, self.barrier = size, Barrier(size, timeout=60)
        self.pinned: list[Any] = [None] * size

    def exchange(self, rank: int, mine: Any) -> list[Any]:
        self.pinned[rank] = mine
        self.barrier.wait()
        everything = [*self.pinned]
        self.barrier.wait()  # nobody pins the next before all have read
        return everything


@dataclass
class Thread:
    rank: int
    board: Board

    @property
    def size(self) -> int:
        return self.board.size

    def part(self, count: int) -> slice:
        return part(count, self.rank, self.size)

    def words(self, mine: str) -> list[str]:
        return self.board.exchange(self.rank, mine)

    def agreed(self, mine: Any) -> Any:
        return self.board.exchange(self.rank, mine)[0]

    def merged(self, state: Any, merge: Callable[[Any, Any], Any], like: Callable[[], Any]) -> Any:
        return reduce(merge, [each for each in self.board.exchange(self.rank, state) if each is not None])

    def joined(self, part_PI: Tensor, count: int) -> Tensor:
        whole_OI = torch.cat(self.board.exchange(self.rank, part_PI))
        assert len(whole_OI) == count
        return whole_OI

    def each(self, tensors: Sequence[Tensor]) -> Iterator[Tensor]:
        for theirs in self.board.exchange(self.rank, [*tensors]):
            yield from (tensor.clone() for tensor in theirs)

    def first(self, x_ANY: Tensor) -> Tensor:
        return self.board.exchange(self.rank, x_ANY)[0].clone()


def together(size: int, work: Callable[[Processes], Any]) -> list[Any]:
    """The results of `work` in each process, by rank. Raises the error of the first process that failed."""
    board = Board(size)

    def one(rank: int) -> Any:
        try:
            return work(Thread(rank, board))
        except BaseException:
            board.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    causes = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(causes, key=lambda error: "Broken" in type(error).__name__):
        raise error
    return [future.result() for future in futures]


def torchrun(*arguments: str, processes: int = 2, script: str = "run.py", **environment: str) -> Any:
    """`torchrun --nproc-per-node=PROCESSES SCRIPT ARGUMENTS`."""
    line = (
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        str(ROOT / script),
        *arguments,
    )
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600)

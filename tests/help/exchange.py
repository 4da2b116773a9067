"""Everything that processes exchange, by one of two real ones: `python exchange.py RANK FILE`, a file that both share."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from sparsity.processes import Group, Processes


class State(NamedTuple):
    sum_I: Tensor
    tokens: int


class Concatenation:
    """A merge in which the order shows."""

    @staticmethod
    def merge(a: State, b: State) -> State:
        return State(torch.cat([a.sum_I, b.sum_I]), a.tokens + b.tokens)

    @staticmethod
    def zero() -> State:
        return State(torch.zeros(1), 0)


def exchange(processes: Processes) -> list[Any]:
    """The results of all exchanges in this process, as a JSON value."""
    me, merge, zero = processes.rank, Concatenation.merge, Concatenation.zero
    kinds = [torch.float64, torch.bfloat16, torch.bool, torch.int64]
    mine = [torch.full((2, 1 + me), me, dtype=dtype) for dtype in kinds[me:]]
    mine += [torch.arange(6).view(2, 3).T, torch.tensor(1.5 + me), torch.empty(0, 2)]
    rows = torch.arange(10).view(5, 2)[processes.part(5)]
    both, one = State(torch.full((2,), 0.5 + me), 3 + me), State(torch.ones(1), 7)
    return [
        processes.words(["", 'ü "and" more'][me]),
        processes.agreed({"first": not me, "said": [me, None, 'ü "and" more']}),
        [[str(x.dtype), x.tolist()] for x in processes.each(mine)],
        [processes.joined(x, 5).tolist() for x in (rows, rows > 3, rows[:, 0].to(torch.bfloat16))],
        processes.first(torch.full((2, 2), me).T).tolist(),
        [
            [state.sum_I.tolist(), state.tokens]
            for state in (
                processes.merged(both, merge, zero),
                processes.merged(one if me else None, merge, zero),
            )
        ],
        processes.merged(torch.ones(2) + me, torch.sub, lambda: torch.zeros(1)).tolist(),
    ]


if __name__ == "__main__":
    rank, path = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", store=dist.FileStore(path, 2), rank=rank, world_size=2)
    print(json.dumps(exchange(Group(rank, 2))))

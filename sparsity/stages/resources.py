"""The predicted memory, disk and time of a run: the sum of its stages' costs (`Stage.cost`), from shapes and options alone.

Memory is the sum of what is held from the first stage to the last and of the largest peak. The model that `reference` names is not
counted: it is freed before the first block is pruned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from ..stream import now
from .stage import Cost, Outlook, Stage

PROGRAM = 40 * 2**20  # bytes of code that is imported during the run
FILES = 2**30  # bytes that are read or written in a second (assumed)
RATED = 1024  # rows and columns of the matrix product that measures the machine's speed


@dataclass(frozen=True)
class Needed:
    """The resources that a run will need."""

    model: Mapping[str, int]  # bytes of memory that are held all the time
    stages: Mapping[str, Mapping[str, int]]  # bytes that are held in addition, by step and purpose
    disk: Mapping[str, int]  # bytes
    operations: Mapping[str, int]
    moved: int  # bytes read from files and written to them

    @property
    def most(self) -> str:
        """The step that holds most memory."""
        return max(self.stages, key=lambda stage: sum(self.stages[stage].values()))

    @property
    def memory(self) -> int:
        """Bytes at the peak, without those that the program holds when it starts."""
        return PROGRAM + sum(self.model.values()) + sum(self.stages[self.most].values())

    def seconds(self, rate: float) -> float:
        """The predicted time. `rate`: operations in a second."""
        return sum(self.operations.values()) / rate + self.moved / FILES

    def told(self, before: int, rate: float) -> Iterator[str]:
        """Yield the prediction in lines for users. `before`: bytes that the program holds without a model."""
        held = {"program": before + PROGRAM, **self.model, **self.stages[self.most]}
        yield f"will need about {_size(before + self.memory)} of memory, most of it to {self.most}: {_listed(held)}"
        yield f"and about {_size(sum(self.disk.values()))} of disk: {_listed(self.disk) or 'tables'}"
        yield (
            f"and {_duration(self.seconds(rate))} or more: {sum(self.operations.values()) / 1e12:,.2f} TFLOP at "
            f"{rate / 1e9:,.0f} GFLOP/s, {_size(self.moved)} of files at {_size(FILES)}/s; allocations "
            f"and scores come on top"
        )


def needed(stages: Sequence[Stage[Any]], outlook: Outlook) -> Needed:
    """The sum of the stages' costs. Only the shapes of the model are used."""
    costs: list[Cost] = [stage.cost(outlook) for stage in stages]
    disk = {name: size for cost in costs for name, size in cost.disk.items()}
    return Needed(
        {name: size for cost in costs for name, size in cost.held.items()},
        {name: held for cost in costs for name, held in cost.peaks.items()},
        disk,
        {name: count for cost in costs for name, count in cost.operations.items()},
        sum(cost.moved for cost in costs) + sum(disk.values()),
    )


@cache
def rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations in a second of a matrix product on this machine. Measured once, which takes 0.2 s."""
    a_NN = torch.ones(RATED, RATED, device=device, dtype=dtype)
    a_NN @ a_NN  # wakes the threads
    start, count = now(device), 0
    while now(device) - start < 0.2:
        a_NN @ a_NN
        count += 1
    return 2 * RATED**3 * count / (now(device) - start)


def _size(held: int) -> str:
    return f"{held / 2**30:,.1f} GiB" if held >= 2**30 else f"{held / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:,.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:,.0f} min"
        if seconds >= 90
        else f"{seconds:,.0f} s"
    )


def _listed(held: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {_size(some)}" for what, some in held.items() if some)

"""What the pruned model saves: non-zeros, bytes as stored densely and as packed (`models.packed`), and tokens per second.

Both models are timed in one process on the same tokens, forward passes without a cache, the median of `repeats`. Zeros that are
stored like any other number are multiplied like any other: unstructured pruning makes a model neither smaller nor faster by
itself, and the figures say so. `semi_structured` (a CUDA device of compute capability >= 8, half precision) measures the one
exception: the layers whose groups of four inputs hold two zeros run through `torch.sparse.to_sparse_semi_structured`, and the
seconds of all of them, dense and sparse, are reported beside the largest difference of their outputs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..core import Measured, Model, UserError
from ..linalg import nonzeros
from ..models.packed import packed_bytes
from ..ranges import Range, checked


@dataclass(frozen=True)
@checked
class Cost:
    reads_text: ClassVar[bool] = False
    remembers: ClassVar[bool] = False  # seconds of another process on another day say nothing about today's
    streams: ClassVar[bool] = False

    seqlen: Annotated[int, Range(least=1, cap=2**20, such=512)]  # tokens in a sequence
    batch_size: Annotated[int, Range(least=1, cap=2**16, such=8)]  # sequences in a forward pass
    repeats: Annotated[int, Range(least=1, cap=1000, such=5)]  # forward passes
    semi_structured: bool  # also measure 2:4 kernels

    def files(self) -> Sequence[Path]:
        return ()

    def check(self, ids_N: Tensor) -> None:
        """Nothing of the text is read."""

    def reference(self, dense: Model, ids_N: Tensor) -> Mapping[str, Tensor]:
        if self.semi_structured and dense.device.type != "cuda":
            raise UserError(
                f"evaluation.cost.semi_structured=true cannot run on {dense.device.type}: expected device=cuda. Leave it false"
            )
        return {"seconds": torch.tensor(self._seconds(dense), dtype=torch.float64)} | _sizes(dense)

    def compare(self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor]) -> Measured:
        tokens = self.batch_size * self.seqlen
        timed = {"dense": reference["seconds"].tolist(), "pruned": self._seconds(pruned)}
        sizes = {"dense": reference, "pruned": _sizes(pruned)}
        rows = [
            {"repeat": i, "tokens": tokens, **{f"seconds_{which}": seconds[i] for which, seconds in timed.items()}}
            for i in range(self.repeats)
        ]
        summary: dict[str, Any] = {
            which: {name: int(sizes[which][name]) for name in ("parameters", "nonzero", "bytes", "bytes_packed")}
            | {"tokens_per_second": tokens / statistics.median(seconds)}
            for which, seconds in timed.items()
        }
        summary |= {"seqlen": self.seqlen, "batch_size": self.batch_size}
        if self.semi_structured:
            summary["semi_structured"] = semi_structured(pruned.model, tokens, self.repeats)
        return Measured(summary, "cost", rows)

    def _seconds(self, model: Model) -> list[float]:
        ids_N = torch.arange(self.batch_size * self.seqlen) % model.model.get_input_embeddings().num_embeddings
        ids_BT = ids_N.view(self.batch_size, self.seqlen)
        return timed(lambda: model.logits(ids_BT), model.device, self.repeats)


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls after one that warms up; the device is waited for."""

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    work()
    found = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - start)
    return found


@torch.no_grad()
def semi_structured(model: nn.Module, tokens: int, repeats: int) -> dict[str, float]:
    """Over the linear layers that fit the kernels: median seconds of a pass of `tokens` through each, summed."""
    layers, seconds, largest = 0, {"dense": 0.0, "sparse": 0.0}, 0.0
    for linear in _two_of_four(model):
        layers += 1
        x_NI = torch.linspace(
            -1, 1, tokens * linear.in_features, device=linear.weight.device, dtype=linear.weight.dtype
        )
        x_NI = x_NI.view(tokens, linear.in_features)
        sparse_OI = torch.sparse.to_sparse_semi_structured(linear.weight.detach())
        for which, weight_OI in (("dense", linear.weight), ("sparse", sparse_OI)):
            passed = partial(functional.linear, x_NI, weight_OI)
            seconds[which] += statistics.median(timed(passed, x_NI.device, repeats))
        apart_NO = functional.linear(x_NI, sparse_OI) - functional.linear(x_NI, linear.weight)
        largest = max(largest, apart_NO.abs().max().item())
    return {"layers": layers, **{f"seconds_{which}": value for which, value in seconds.items()}, "difference": largest}


def _two_of_four(model: nn.Module) -> Iterator[nn.Linear]:
    """The linear layers of half precision with at most two non-zeros in each group of four inputs, and some zeros."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.element_size() == 2 and module.in_features % 64 == 0:
            kept_OG = (module.weight != 0).unflatten(1, (-1, 4)).sum(-1)
            if kept_OG.max() <= 2 and module.out_features % 64 == 0:
                yield module


def _sizes(model: Model) -> dict[str, Tensor]:
    """Of all parameters, tied ones once."""
    parameters = list(model.model.parameters())
    found = {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(nonzeros(p) for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "bytes_packed": sum(packed_bytes(p) for p in parameters),
    }
    return {name: torch.tensor(value) for name, value in found.items()}

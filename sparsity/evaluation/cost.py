"""The cost of both models: non-zero weights, bytes when stored densely and packed (`models.packed`), and tokens per second.

Both models are timed in one process on the same tokens: forward passes without a key-value cache, the median of `repeats`. Zeros
that are stored like other numbers are multiplied like other numbers, so unstructured pruning alone makes a model neither smaller
nor faster. `semi_structured` (on a CUDA device of compute capability >= 8, in half precision) measures the exception: layers
whose groups of four inputs hold two zeros run through `torch.sparse.to_sparse_semi_structured`. The seconds of all these layers,
dense and sparse, are reported, and the largest difference of their outputs.
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

from ..core import UserError
from ..evaluator import Measured, Model
from ..linalg import nonzeros
from ..measures import Better, Measure, both
from ..models.packed import packed_bytes
from ..notes import NO_NOTES, Notes
from ..ranges import Range, checked


@dataclass(frozen=True)
@checked
class Cost:
    """The evaluator of size and speed."""

    reads_text: ClassVar[bool] = False
    remembers: ClassVar[bool] = False  # times from another process on another day are not comparable
    streams: ClassVar[bool] = False

    seqlen: Annotated[int, Range(least=1, cap=2**20, such=512)]  # tokens in a sequence
    batch_size: Annotated[int, Range(least=1, cap=2**16, such=8)]  # sequences in a forward pass
    repeats: Annotated[int, Range(least=1, cap=1000, such=5)]  # forward passes
    semi_structured: bool  # also measure 2:4 kernels

    def files(self) -> Sequence[Path]:
        return ()

    def check(self, ids_N: Tensor) -> None:
        """Accepts every text: none is read."""

    def reference(self, dense: Model, ids_N: Tensor, notes: Notes = NO_NOTES) -> Mapping[str, Tensor]:
        if self.semi_structured and dense.device.type != "cuda":
            raise UserError(
                f"evaluation.cost.semi_structured=true cannot run on {dense.device.type}: expected device=cuda. Leave it false"
            )
        return {"seconds": torch.tensor(self._seconds(dense), dtype=torch.float64)} | _sizes(dense)

    def compare(
        self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor], notes: Notes = NO_NOTES
    ) -> Measured:
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
        return Measured(summary, "cost", rows, list(_measures(summary)))

    def _seconds(self, model: Model) -> list[float]:
        ids_N = torch.arange(self.batch_size * self.seqlen) % model.model.get_input_embeddings().num_embeddings
        ids_BT = ids_N.view(self.batch_size, self.seqlen)
        return timed(lambda: model.logits(ids_BT), model.device, self.repeats)


def _measures(summary: Mapping[str, Any]) -> Iterator[Measure]:
    told: tuple[tuple[str, str, Better | None, int], ...] = (
        ("parameters", "", None, 0),
        ("nonzero", "", "smaller", 0),
        ("bytes", "bytes", "smaller", 2),
        ("bytes_packed", "bytes", "smaller", 2),
        ("tokens_per_second", "tokens/s", "larger", 1),
    )
    for name, unit, better, digits in told:
        dense, pruned = (summary[which][name] for which in ("dense", "pruned"))
        yield from both(name, dense, pruned, unit, better, digits=digits, folded=digits == 0)
    for which in ("dense", "sparse") if "semi_structured" in summary else ():
        seconds = summary["semi_structured"][f"seconds_{which}"]
        yield Measure(f"semi_structured.seconds_{which}", seconds, "s", "smaller", f"2:4 layers, {which}", 4)


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """The seconds of each of `repeats` calls, after one call to warm up. Waits for the device before and after each call."""

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
    """Measurements of the layers that fit the 2:4 kernels.

    The number of layers; the median seconds of a pass of `tokens` tokens through each, dense and sparse, summed over the layers;
    and the largest difference between the outputs of the two.
    """
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
    """The linear layers in half precision with at most two non-zeros in each group of four inputs."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.element_size() == 2 and module.in_features % 64 == 0:
            kept_OG = (module.weight != 0).unflatten(1, (-1, 4)).sum(-1)
            if kept_OG.max() <= 2 and module.out_features % 64 == 0:
                yield module


def _sizes(model: Model) -> dict[str, Tensor]:
    """The sizes of all parameters together; tied parameters count once."""
    parameters = list(model.model.parameters())
    found = {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(nonzeros(p) for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "bytes_packed": sum(packed_bytes(p) for p in parameters),
    }
    return {name: torch.tensor(value) for name, value in found.items()}

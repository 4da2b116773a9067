"""One pruning by one side, with its time and memory. bench/peers.py starts this file in a new process with that side's Python.

    python -P experiments/bench/pruner.py '{"side": "ours", "method": "wanda", ...}'        see `Asked`

The time begins with the model and the calibration ids in memory, and ends with the pruned model in memory: for this project the
stream, the plan and the engine, for llm-compressor its `oneshot`. Imports, loading and saving are not timed. "streamed" is this
project with model.stream=true, whose time includes reading and writing the blocks. The layers' errors are not computed, because
llm-compressor does not compute them. Memory is the resident memory of the whole process: `loaded` before the work, `peak` during
it, measured from a reset in between (Linux).

Only `ours` imports this project, because the other side's Python does not have it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

KIB = 1024


class Asked(TypedDict):
    """The task of this process."""

    side: str  # ours, streamed or llm-compressor
    method: str  # wanda or sparsegpt
    propagate: str
    sparsity: float
    batch_size: int
    damp: float  # an option of SparseGPT, as is `width`
    width: int
    model: str  # the folder of a checkpoint
    ids: str  # a file with the ids (B, T)
    weights: str  # the file to write the pruned layers' weights to


class Taken(TypedDict):
    """The measurements of this process."""

    seconds: float
    cpu: float  # seconds of all threads together
    loaded: int  # bytes
    peak: int
    threads: int


class Ready(NamedTuple):
    """A loaded model: the work to be timed, and access to the weights."""

    work: Callable[[], object]
    weights: Callable[[], dict[str, Tensor]]  # the weights of the linear layers, without the head


def ours(asked: Asked, ids_BT: Tensor, stream: bool = False) -> Ready:
    """The pruning by this project."""
    from sparsity.core import Method
    from sparsity.correctors import NoCorrection
    from sparsity.engine import plan, prune
    from sparsity.methods import SparseGPT, Wanda
    from sparsity.models import Decoder, Local
    from sparsity.patterns import Unstructured
    from sparsity.stream import BlockStream

    method: Method = Wanda("row") if asked["method"] == "wanda" else SparseGPT("layer", asked["damp"], asked["width"])
    loaded = Local(asked["model"], stream).load(torch.float32)
    decoder = Decoder(loaded.model, files=loaded.files)

    def work() -> None:
        the_plan = plan(decoder, method, Unstructured(asked["sparsity"]), NoCorrection(), layer_error=False)
        propagate: Any = asked["propagate"]
        batch_size = asked["batch_size"]
        along = BlockStream(decoder, ids_BT, batch_size=batch_size, propagate=propagate, device=decoder.device)
        for _ in prune(along, the_plan):
            pass

    def weights() -> dict[str, Tensor]:
        return {layer.site.name: layer.weight_OI.contiguous() for layer in decoder.layers(decoder.sites)}

    return Ready(work, weights)


def theirs(asked: Asked, ids_BT: Tensor) -> Ready:
    """The pruning by llm-compressor."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier

    common = {"sparsity": asked["sparsity"], "mask_structure": "0:0", "targets": ["Linear"], "ignore": ["re:.*lm_head"]}
    sparsegpt = {"dampening_frac": asked["damp"], "block_size": asked["width"]}
    wanda = asked["method"] == "wanda"
    modifier = WandaPruningModifier(**common) if wanda else SparseGPTModifier(**common, **sparsegpt)
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32, local_files_only=True)
    model.eval().requires_grad_(False)
    rows = {"input_ids": ids_BT.tolist(), "attention_mask": torch.ones_like(ids_BT).tolist()}
    work = partial(
        oneshot,
        model=model,
        dataset=Dataset.from_dict(rows),
        recipe=[modifier],
        pipeline="sequential",
        propagate_error=asked["propagate"] == "pruned",
        batch_size=asked["batch_size"],
        num_calibration_samples=len(ids_BT),
        max_seq_length=ids_BT.shape[1],
        shuffle_calibration_samples=False,
    )

    def weights() -> dict[str, Tensor]:
        linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        return {name: linear.weight.detach() for name, linear in linears.items() if name != "lm_head"}

    return Ready(work, weights)


def high_water() -> int:
    """The peak resident memory since the reset, in bytes. `getrusage` would include the peak of the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * KIB


def main() -> None:
    """Run the command, and print the measurements as JSON."""
    asked: Asked = json.loads(sys.argv[1])
    sides: dict[str, Callable[[Asked, Tensor], Ready]] = {
        "ours": ours,
        "streamed": partial(ours, stream=True),
        "llm-compressor": theirs,
    }
    ready = sides[asked["side"]](asked, load_file(asked["ids"])["ids"])
    loaded = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start, used = time.perf_counter(), time.process_time()
    ready.work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    peak = high_water()
    save_file(ready.weights(), asked["weights"])
    taken: Taken = {
        "seconds": seconds,
        "cpu": cpu,
        "loaded": loaded,
        "peak": peak,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(taken))


if __name__ == "__main__":
    main()

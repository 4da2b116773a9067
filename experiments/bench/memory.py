"""make bench-memory: the peak memory of a run by the depth of its model, streamed and not, beside the run's prediction.

    python -m experiments.bench.memory                      a Llama of 1024 inputs, 8 and 32 blocks, float32
    python -m experiments.bench.memory --llama-7b           Llama-2-7B's shape cut off at 4 and 6 blocks, bfloat16; 12 GiB of disk
    python -m experiments.bench.memory --llama-70b          what Llama-2-70B would need, from its shapes; nothing is run

Weights and text are random, so the quality of the result does not matter. Each run is a separate process; its peak resident
memory comes from the operating system.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from transformers import LlamaConfig, PreTrainedConfig

from sparsity.engine import plan
from sparsity.models import Decoder
from sparsity.models.layout import INDEX
from sparsity.models.skeleton import skeleton
from sparsity.models.tiny import tokenizer
from sparsity.options.components import build, components
from sparsity.options.settings import read
from sparsity.stages import STAGES
from sparsity.stages.resources import needed
from sparsity.stages.sizes import shapes
from sparsity.stages.stage import Outlook

ROOT = Path(__file__).parents[2]
TEXT = 16_384  # tokens; a token is a byte


LLAMA_70B = LlamaConfig(
    vocab_size=32000,
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    max_position_embeddings=4096,
)


class Run(NamedTuple):
    """The measurements of one run."""

    peak: int  # peak resident memory in bytes
    needed: int  # predicted memory in bytes
    seconds: float


def llama(blocks: int, width: int, inner: int, heads: int, vocabulary: int) -> PreTrainedConfig:
    """The configuration of a Llama with this shape."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        architectures=["LlamaForCausalLM"],
    )


def write(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> Path:
    """Write a random checkpoint with one shard per block, and two texts beside it. One shard at a time is in memory."""
    folder.mkdir(parents=True)
    decoder, generator = Decoder(skeleton(config, dtype)), torch.Generator().manual_seed(0)
    decoder.model.config.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    weight_map: dict[str, str] = {}
    for number, parameters in enumerate(decoder.parameters()):
        shard = f"model-{number:05d}.safetensors"
        tensors = {name: _random(blank, generator) for name, blank in parameters.items()}
        save_file(tensors, folder / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(parameters, shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}), "utf-8")
    draw = random.Random(0)
    for text in ("calibration", "evaluation"):
        (folder / f"{text}.txt").write_text("".join(draw.choices("abcdefgh ", k=TEXT)), "utf-8")
    return folder


def _random(blank_ANY: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if blank_ANY.ndim < 2:
        return torch.ones(blank_ANY.shape, dtype=blank_ANY.dtype)
    drawn_OI = torch.randn(blank_ANY.shape, generator=generator)
    return drawn_OI.mul_(blank_ANY.shape[1] ** -0.5).to(blank_ANY.dtype)


def run(model: Path, tokens: int, *words: str) -> Run:
    """Prune the model in a new process, with calibration sequences of `tokens` tokens. `words`: options of the command line."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        line = [
            "model=local", f"model.path={model}", "dataset=text", f"dataset.calibration={model}/calibration.txt",
            f"dataset.evaluation={model}/evaluation.txt", "tracker=none", "calibration.num_sequences=4", "calibration.batch_size=2",
            f"calibration.seqlen={tokens}", f"evaluation.perplexity.seqlen={tokens}", "evaluation.perplexity.windows=4",
            f"hydra.run.dir={folder}/run", *words,
        ]  # fmt: skip
        environment = os.environ | {"SPARSITY_CACHE": f"{folder}/cache", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(ROOT / "run.py"), *line]
        if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode:
            sys.exit(f"{' '.join(line)} failed")
        result = json.loads((Path(folder) / "run" / "result.json").read_text("utf-8"))
    return Run(result["peak_memory_bytes"], result["needed"]["memory_bytes"], time.perf_counter() - start)


def table(folder: Path, configs: Iterable[PreTrainedConfig], dtype: torch.dtype, tokens: int, *words: str) -> None:
    """Run the models of these configurations, streamed and not, and print a table."""
    print("| blocks | weights | read | peak | said before | seconds |\n|---|---|---|---|---|---|")
    for config in configs:
        model = write(folder / f"{config.num_hidden_layers}", config, dtype)
        weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        for how in ("block by block", "whole"):
            found = run(model, tokens, f"model.stream={str(how != 'whole').lower()}", *words)
            sizes = (f"{size / 2**30:.2f} GiB" for size in (found.peak, found.needed))
            print(
                f"| {config.num_hidden_layers} | {weights / 2**30:.2f} GiB | {how} | {' | '.join(sizes)} | {found.seconds:.0f} |",
                flush=True,
            )
        for path in model.glob("*.safetensors"):  # the next model needs the space
            path.unlink()


def plan_table(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    """Print what runs over a model of this shape need, by method and size of the calibration text, with 163 windows of 2048."""
    decoder = Decoder(skeleton(config, dtype))
    of = shapes(decoder)
    print(f"weights {_gib(of.weights)}, outside the blocks {_gib(of.outside)}, a block {_gib(of.block)}")
    print(
        "| method | calibration | statistics | hidden states | memory | disk | TFLOP |\n|---|---|---|---|---|---|---|"
    )
    for size, method in product(("default", "paper"), ("wanda", "sparsegpt")):
        words = [f"method={method}", f"calibration={size}", "evaluation=wikitext2_2048", "dataset=wikitext2"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            composed = compose("config", words)
        settings, parts = read(composed), build(components(composed))
        the_plan = plan(decoder, parts.method, parts.pattern, parts.corrector)
        tokens = 341_469  # WikiText-2's test rows in Llama's tokens
        need = needed(STAGES, Outlook(settings, parts, decoder, the_plan, tokens, streamed=True))
        pruning = need.stages["prune"]
        text = f"{settings.calibration.num_sequences} x {settings.calibration.seqlen}"
        held = (pruning["statistics"], pruning["hidden states"], need.memory, sum(need.disk.values()))
        print(f"| {method} | {text} | {' | '.join(map(_gib, held))} | {sum(need.operations.values()) / 1e12:,.0f} |")


def _gib(held: int) -> str:
    return f"{held / 2**30:.2f} GiB"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-7b", action="store_true")
    parser.add_argument("--llama-70b", action="store_true")
    parser.add_argument("words", nargs="*", help="options of the runs: method=sparsegpt")
    arguments = parser.parse_args()
    if arguments.llama_70b:
        plan_table(LLAMA_70B, torch.bfloat16)
        return
    (ROOT / "outputs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "outputs") as name:
        if arguments.llama_7b:
            configs = [llama(blocks, 4096, 11008, 32, 32000) for blocks in (4, 6)]
            table(Path(name), configs, torch.bfloat16, 128, *arguments.words)
        else:
            configs = [llama(blocks, 1024, 2816, 16, 8192) for blocks in (8, 32)]
            table(Path(name), configs, torch.float32, 64, *arguments.words)


if __name__ == "__main__":
    main()

"""make bench-peers: the same pruning by this project and by llm-compressor, in turn. Needs an idle machine and Linux.

    python -m experiments.bench.peers --python build/peers/bin/python --methods wanda --repeats 3

On the model and the text of experiment=protocol. We with the whole model in memory, we with its blocks in their files ("streamed"),
and llm-compressor read one checkpoint and one file of token ids, prune the same linear layers in float32 with equal batches,
damping, block width and number of threads, each in a process of its own (bench/pruner.py says what is timed), and leave their
weights, which are compared here: the share of mask entries that agree, and this project's perplexity of both. llm-compressor's
`propagate_error` is our `calibration.propagate`. THP_MEM_ALLOC_ENABLE=1 in front gives both sides the large pages that
importing this project asks torch for; =0 takes them from both.

What is not quite equal: an unstructured SparseGPT removes one weight and all ties more in every block of inputs there (`<=` the
threshold), and Wanda the lower fraction of a row in both. `--rows FILE` keeps what was measured and adds it to later tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsity.linalg import nonzeros
from sparsity.models import Decoder

from .profiling import METHODS, WALKS
from .protocol import Protocol, protocol
from .pruner import Asked, Taken

ROOT = Path(__file__).parents[2]
SIDES = OURS, STREAMED, THEIRS = ("ours", "streamed", "llm-compressor")
MIB = 2**20


class Run(NamedTuple):
    side: str
    method: str
    propagate: str
    sparsity: float
    seconds: float
    cpu: float  # seconds of all threads together
    loaded: float  # MiB
    peak: float


class Pair(NamedTuple):
    """What both sides made of one composition."""

    method: str
    propagate: str
    sparsity: float
    agreement: float  # share of all mask entries
    lowest: float  # of a layer
    found: list[float]  # sparsity, by side
    perplexity: list[float]


def pruned(python: str, asked: Asked) -> Taken:
    """By a process of its own."""
    path = {} if asked["side"] == THEIRS else {"PYTHONPATH": str(ROOT)}
    line = [python, "-P", str(Path(__file__).with_name("pruner.py")), json.dumps(asked)]
    done = subprocess.run(line, env={**os.environ, "HF_HUB_OFFLINE": "1", **path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    taken: Taken = json.loads(done.stdout.splitlines()[-1])
    return taken


def agreement(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """By layer, the share of entries that are zero in both or in neither. Raises `ValueError` where the layers are not the same."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"not the same layers: {sorted(ours.keys() ^ theirs.keys())} were pruned by one side only")
    return {name: ((ours[name] == 0) == (theirs[name] == 0)).double().mean().item() for name in ours}


def check_equal(whole: Mapping[str, Tensor], streamed: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` where streaming left other weights: its time and memory would be those of other work."""
    if others := [name for name, weight in whole.items() if not torch.equal(weight, streamed[name])]:
        raise ValueError(f"streaming changed {len(others)} layers: {', '.join(others[:4])}")


class Bench:
    def __init__(self, given: Protocol, folder: Path, python: str):
        self.given, self.folder, self.python = given, folder, python
        self.decoder = Decoder(given.loaded.model)
        given.loaded.model.save_pretrained(folder / "model")
        given.loaded.tokenizer.save_pretrained(folder / "model")
        save_file({"ids": given.ids_BT.contiguous()}, folder / "ids.safetensors")
        self.reference = given.evaluator.reference(self.decoder, given.ids_N)

    def run(self, side: str, method: str, propagate: str, sparsity: float) -> Run:
        asked: Asked = {
            "side": side,
            "method": method,
            "propagate": propagate,
            "sparsity": sparsity,
            "batch_size": self.given.batch_size,
            "damp": 0.01,
            "width": 128,
            "model": str(self.folder / "model"),
            "ids": str(self.folder / "ids.safetensors"),
            "weights": str(self._weights(side)),
        }
        taken = pruned(self.python if side == THEIRS else sys.executable, asked)
        assert taken["threads"] == torch.get_num_threads(), taken
        memory = taken["loaded"] / MIB, taken["peak"] / MIB
        return Run(side, method, propagate, sparsity, taken["seconds"], taken["cpu"], *memory)

    def compare(self, method: str, propagate: str, sparsity: float) -> Pair:
        """The weights that both sides left last."""
        weights = [load_file(self._weights(side)) for side in (OURS, THEIRS)]
        check_equal(weights[0], load_file(self._weights(STREAMED)))
        agreeing = agreement(*weights)
        numbers = {name: weight.numel() for name, weight in weights[0].items()}
        entries = sum(numbers.values())
        return Pair(
            method,
            propagate,
            sparsity,
            sum(share * numbers[name] for name, share in agreeing.items()) / entries,
            min(agreeing.values()),
            [1 - sum(map(nonzeros, of_side.values())) / entries for of_side in weights],
            [self._perplexity(of_side) for of_side in weights],
        )

    def _perplexity(self, weights: Mapping[str, Tensor]) -> float:
        for site in self.decoder.sites:
            self.decoder.blocks[site.block].write(site, weights[site.name])
        found = self.given.evaluator.compare(self.decoder, self.given.ids_N, self.reference)
        return float(found.summary["pruned"])

    def _weights(self, side: str) -> Path:
        return self.folder / f"{side}.safetensors"


def middle(numbers: Sequence[float], digits: int = 1) -> str:
    if not numbers:
        return ""
    return f"{statistics.median(numbers):.{digits}f} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})"


def table(runs: Sequence[Run]) -> str:
    """Medians with the smallest and the largest, of what was measured and of ratios: ours to theirs, and both of ours to theirs as
    it is by default, with propagate=pruned. A ratio is of runs of one repeat, which saw the same machine, or nearly.
    """
    sparsities = dict.fromkeys(run.sparsity for run in runs)

    def of(what: str, *key: str) -> list[list[float]]:
        """By sparsity, repeat by repeat."""
        mine = [run for run in runs if (run.side, run.method, run.propagate) == key]
        return [[getattr(run, what) for run in mine if run.sparsity == sparsity] for sparsity in sparsities]

    head = ["", "propagate", "what", *SIDES, "ours to theirs", "to theirs, pruned", "streamed to that"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, propagate in dict.fromkeys((run.method, run.propagate) for run in runs):
        for what, name in (("seconds", "wall, s"), ("cpu", "CPU, s"), ("peak", "peak, MiB"), ("loaded", "loaded, MiB")):
            ours, streamed, theirs = (of(what, side, method, propagate) for side in SIDES)
            pruned = of(what, THEIRS, method, "pruned")
            found = [middle(list(chain(*each))) for each in (ours, streamed, theirs)]
            found += [middle(ratios(*pair), 2) for pair in ((ours, theirs), (ours, pruned), (streamed, pruned))]
            lines.append(f"| {' | '.join([method, propagate, name, *found])} |")
    return "\n".join(lines)


def ratios(mine: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> list[float]:
    """Repeat by repeat, as far as both sides have run."""
    both = (zip(a, b, strict=False) for a, b in zip(mine, theirs, strict=True))
    return [a / b for a, b in chain(*both)]


def quality(pairs: Sequence[Pair]) -> str:
    lines = ["| | propagate | asked | agreement (least of a layer) | found | perplexity |", "|---|---|---|---|---|---|"]
    for pair in pairs:
        found, seen = (
            " / ".join(f"{x:{form}}" for x in both) for both, form in ((pair.found, ".4%"), (pair.perplexity, ".2f"))
        )
        share = f"{pair.agreement:.4%} ({pair.lowest:.4%})"
        lines.append(f"| {pair.method} | {pair.propagate} | {pair.sparsity:.0%} | {share} | {found} | {seen} |")
    return "\n".join(lines)


def kept(file: Path | None) -> tuple[list[Run], list[Pair]]:
    lines = file.read_text().splitlines() if file and file.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [Run(**row) for row in rows if "side" in row], [Pair(**row) for row in rows if "side" not in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="on top of experiment=protocol, such as calibration.batch_size=1")
    parser.add_argument("--python", required=True, help="of an environment with llm-compressor")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--propagate", nargs="+", choices=WALKS, default=list(WALKS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.6])
    parser.add_argument("--repeats", type=int, default=2, help="of every method, propagation and sparsity")
    parser.add_argument("--rows", type=Path, help="a file that keeps what was measured")
    options = parser.parse_args()
    runs, pairs = kept(options.rows)

    def keep(row: Run | Pair) -> None:
        if options.rows:
            options.rows.parent.mkdir(parents=True, exist_ok=True)
            with options.rows.open("a") as file:
                file.write(json.dumps(row._asdict()) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(protocol(options.words), Path(folder), options.python)
        done = {(pair.method, pair.propagate, pair.sparsity) for pair in pairs}
        for repeat in range(options.repeats):
            for point in ((m, p, s) for s in options.sparsities for m in options.methods for p in options.propagate):
                for side in SIDES[:: 1 if repeat % 2 == 0 else -1]:
                    runs.append(bench.run(side, *point))
                    keep(runs[-1])
                    print(*runs[-1], flush=True)
                if point not in done:
                    done.add(point)
                    pairs.append(bench.compare(*point))
                    keep(pairs[-1])
    print(f"\n{torch.get_num_threads()} threads, {bench.given.loaded.name}, {bench.given.ids_BT.numel()} tokens")
    print(f"\n{table(runs)}\n\n{quality(pairs)}")


if __name__ == "__main__":
    main()

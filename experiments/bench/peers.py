"""make bench-peers: the same pruning by this project and by llm-compressor, alternately. Needs an idle machine and Linux.

    python -m experiments.bench.peers --python build/peers/bin/python --methods wanda --repeats 3

It uses the model and the text of experiment=protocol. There are three sides: this project ("ours"), this project with a streamed
model ("streamed"), and llm-compressor. All read one checkpoint and one file of token ids. They prune the same linear layers in
float32 with equal batches, damping, block width and number of threads, each in its own process (bench/pruner.py says what is
timed). Their weights are compared here: the share of mask entries that agree, and the perplexity of both, measured by this
project. llm-compressor's `propagate_error` is our `calibration.propagate`. THP_MEM_ALLOC_ENABLE=1 before the command gives both
sides the large pages that this project asks torch for; THP_MEM_ALLOC_ENABLE=0 takes them from both.

One thing is not equal: llm-compressor's unstructured SparseGPT removes one weight more in every block of inputs, and all ties
(`<=` the threshold). Wanda removes the same fraction of a row in both. `--rows FILE` stores the measurements and adds them to
later tables.
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
    """The measurements of one pruning."""

    side: str
    method: str
    propagate: str
    sparsity: float
    seconds: float
    cpu: float  # seconds of all threads together
    loaded: float  # MiB
    peak: float


class Pair(NamedTuple):
    """The comparison of both sides for one composition."""

    method: str
    propagate: str
    sparsity: float
    agreement: float  # share of all mask entries
    lowest: float  # the smallest share of a layer
    found: list[float]  # sparsity by side
    perplexity: list[float]


def pruned(python: str, asked: Asked) -> Taken:
    """The measurements of one pruning in a new process. `python`: the interpreter of that side."""
    path = {} if asked["side"] == THEIRS else {"PYTHONPATH": str(ROOT)}
    line = [python, "-P", str(Path(__file__).with_name("pruner.py")), json.dumps(asked)]
    done = subprocess.run(line, env={**os.environ, "HF_HUB_OFFLINE": "1", **path}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    taken: Taken = json.loads(done.stdout.splitlines()[-1])
    return taken


def agreement(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """The share of entries that are zero in both or in neither, by layer. Raises `ValueError` if the layers differ."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"not the same layers: {sorted(ours.keys() ^ theirs.keys())} were pruned by one side only")
    return {name: ((ours[name] == 0) == (theirs[name] == 0)).double().mean().item() for name in ours}


def check_equal(whole: Mapping[str, Tensor], streamed: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` if streaming gave other weights: then its time and memory could not be compared."""
    if others := [name for name, weight in whole.items() if not torch.equal(weight, streamed[name])]:
        raise ValueError(f"streaming changed {len(others)} layers: {', '.join(others[:4])}")


class Bench:
    """The model, the text and the files that all sides read."""

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
        """The comparison of the weights that both sides wrote last."""
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
    """The median with the smallest and the largest number, as text."""
    if not numbers:
        return ""
    return f"{statistics.median(numbers):.{digits}f} ({min(numbers):.{digits}f} to {max(numbers):.{digits}f})"


def table(runs: Sequence[Run]) -> str:
    """A Markdown table of the measurements and their ratios: the median, the smallest and the largest.

    The ratios are ours to theirs, and both of ours to theirs with its default, propagate=pruned. A ratio is taken between runs of
    the same repeat, which ran close to each other in time.
    """
    sparsities = dict.fromkeys(run.sparsity for run in runs)

    def of(what: str, *key: str) -> list[list[float]]:
        """The measurements of each sparsity, in the order of the repeats."""
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
    """The ratios of each repeat that both sides have."""
    both = (zip(a, b, strict=False) for a, b in zip(mine, theirs, strict=True))
    return [a / b for a, b in chain(*both)]


def quality(pairs: Sequence[Pair]) -> str:
    """A Markdown table of the agreement of the masks, the sparsity and the perplexity."""
    lines = ["| | propagate | asked | agreement (least of a layer) | found | perplexity |", "|---|---|---|---|---|---|"]
    for pair in pairs:
        found, seen = (
            " / ".join(f"{x:{form}}" for x in both) for both, form in ((pair.found, ".4%"), (pair.perplexity, ".2f"))
        )
        share = f"{pair.agreement:.4%} ({pair.lowest:.4%})"
        lines.append(f"| {pair.method} | {pair.propagate} | {pair.sparsity:.0%} | {share} | {found} | {seen} |")
    return "\n".join(lines)


def kept(file: Path | None) -> tuple[list[Run], list[Pair]]:
    """The measurements stored in a file; none if there is no file."""
    lines = file.read_text().splitlines() if file and file.exists() else []
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [Run(**row) for row in rows if "side" in row], [Pair(**row) for row in rows if "side" not in row]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words", nargs="*", help="options that change experiment=protocol, such as calibration.batch_size=1"
    )
    parser.add_argument("--python", required=True, help="the Python of an environment with llm-compressor")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--propagate", nargs="+", choices=WALKS, default=list(WALKS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.6])
    parser.add_argument(
        "--repeats", type=int, default=2, help="number of runs for every method, propagation and sparsity"
    )
    parser.add_argument("--rows", type=Path, help="a file that stores the measurements")
    options = parser.parse_args()
    runs, pairs = kept(options.rows)

    def store(row: Run | Pair) -> None:
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
                    store(runs[-1])
                    print(*runs[-1], flush=True)
                if point not in done:
                    done.add(point)
                    pairs.append(bench.compare(*point))
                    store(pairs[-1])
    print(f"\n{torch.get_num_threads()} threads, {bench.given.loaded.name}, {bench.given.ids_BT.numel()} tokens")
    print(f"\n{table(runs)}\n\n{quality(pairs)}")


if __name__ == "__main__":
    main()

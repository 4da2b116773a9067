"""make profile: where a run spends its time, and how its walk compares with plain forward passes. Needs an idle machine.

    python -m experiments.bench.profiling           or, to look at a few blocks only:  ... --blocks 4 --repeats 1

On the model and the text of experiment=protocol, for every method and propagation:

    efficiency  walk / (bare + Grams). A walk observes and advances every block; "bare" is the same number of passes of the same
                blocks over the same hidden states, and nothing else; "Grams" is 2 N I^2 operations for every distinct input of a
                block at the machine's rate for float32 products. They are timed alternately, block by block, under the same load.
                Median, smallest and largest of several walks. It can be below 1, because an observing pass ends early.
    stages      seconds of one run: recording the blocks' calls, observing, advancing, solving, the rest (layers' errors, writing)
    operators   seconds of each operator in the first blocks, under torch's profiler, without the operators that it calls
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sparsity.core import Method, Site, Stats
from sparsity.correctors import NoCorrection
from sparsity.engine import plan, prune
from sparsity.methods import SparseGPT, Wanda
from sparsity.models import Block, Call, Decoder
from sparsity.patterns import Unstructured
from sparsity.statistics import GramState
from sparsity.stream import BlockStream, Needs, Propagate

from .correctors import seconds
from .protocol import Protocol, protocol

METHODS: dict[str, Method] = {"wanda": Wanda("row"), "sparsegpt": SparseGPT("layer", 0.01, 128)}
WALKS: dict[Propagate, int] = {"pruned": 2, "dense": 1}  # passes per block


class Walk(NamedTuple):
    """The times of one walk."""

    walked: float  # seconds
    bare: float
    operations: float  # number of operations of the Gram matrices

    def efficiency(self, rate: float) -> float:
        """The efficiency of the walk. `rate`: operations per second."""
        return self.walked / (self.bare + self.operations / rate)


class Staged(BlockStream):
    """A stream that measures the seconds of its parts."""

    observing = advancing = 0.0

    def observe(self, block: Block, needs: Needs) -> dict[Site, Stats]:
        before = self.seconds
        stats = super().observe(block, needs)
        self.observing += self.seconds - before
        return stats

    def advance(self, block: Block) -> None:
        before = self.seconds
        super().advance(block)
        self.advancing += self.seconds - before


class Bench:
    """A model that is restored to its dense weights after every run."""

    def __init__(self, given: Protocol, blocks: int | None):
        self.given, self.decoder = given, Decoder(given.loaded.model)
        self.blocks = self.decoder.blocks[:blocks]
        self.dense = {site: self.decoder.layer(site).weight_OI.clone() for site in self.decoder.sites}

    def stream(self, propagate: Propagate) -> Staged:
        given = self.given
        return Staged(
            self.decoder, given.ids_BT, batch_size=given.batch_size, propagate=propagate, device=self.decoder.device
        )

    def walk(self, method: Method, propagate: Propagate) -> Walk:
        """The times of a walk without pruning. The bare passes of each block are timed right after it."""
        recorded = [self.decoder.record(ids_BT)[1] for ids_BT in self.given.ids_BT.split(self.given.batch_size)]
        stream = self.stream(propagate)
        bare = operations = 0.0
        start = stream.seconds
        for block in self.blocks:
            calls = [calls[block.index] for calls in recorded]
            for _ in range(WALKS[propagate]):
                bare += seconds(lambda: passed(block, calls, stream.hidden))  # noqa: B023
            stats = stream.observe(block, {site: tuple(method.needs(site)) for site in block.linears})
            stream.advance(block)
            operations += gram_operations(stats)
        return Walk(stream.seconds - start, bare, operations)

    def stages(self, method: Method, propagate: Propagate) -> dict[str, float]:
        """The seconds of one run, by stage."""
        ran: list[Staged] = []
        solving: list[float] = []

        def run() -> None:
            ran.append(self.stream(propagate))
            sites = [site for block in self.blocks for site in block.linears]
            solving.extend(
                r.seconds for r in prune(ran[0], plan(self.decoder, method, Unstructured(0.5), NoCorrection(), sites))
            )

        whole = seconds(run)
        self._restore()
        (stream,) = ran
        known = {
            "recording": stream.seconds - stream.observing - stream.advancing,
            "observing": stream.observing,
            "advancing": stream.advancing,
            "solving": sum(solving),
        }
        return known | {"rest": whole - sum(known.values())}

    def operators(self, method: Method, propagate: Propagate) -> dict[str, float]:
        """The seconds of each operator without the operators that it calls, the longest first."""
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            self.stages(method, propagate)
        own = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
        return dict(sorted(own.items(), key=lambda item: -item[1]))

    @torch.no_grad()
    def _restore(self) -> None:
        for site, weight_OI in self.dense.items():
            self.decoder.blocks[site.block].write(site, weight_OI)


@torch.no_grad()
def passed(block: Block, calls: Sequence[Call], states: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a block for all batches."""
    return [call(block.module, hidden_BTI) for call, hidden_BTI in zip(calls, states, strict=True)]


def gram_operations(stats: Mapping[Site, Stats]) -> float:
    """The number of operations of a block's Gram matrices: 2 N I^2 each; a matrix that layers share counts once."""
    states = {id(folded): folded.state for of_site in stats.values() for folded in of_site.folded.values()}.values()
    return float(sum(2 * state.tokens * len(state.gram_II) ** 2 for state in states if isinstance(state, GramState)))


def rate(size: int = 2048) -> float:
    """The machine's rate for float32 products, in operations per second."""
    a_II = torch.ones(size, size)
    return 2 * size**3 / statistics.median(seconds(lambda: a_II @ a_II) for _ in range(9))


def shares(spent: Mapping[str, float], most: int) -> str:
    """The `most` first entries as lines of text, with their share of the total."""
    whole = sum(spent.values())
    return "\n".join(f"    {name:44} {took:7.2f} s {took / whole:6.1%}" for name, took in list(spent.items())[:most])


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "words", nargs="*", help="options that change experiment=protocol, such as calibration.batch_size=2"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--propagate", nargs="+", choices=WALKS, default=list(WALKS))
    parser.add_argument("--blocks", type=int, help="number of blocks for efficiency and stages; default: all")
    parser.add_argument(
        "--profiled", type=int, default=4, help="number of blocks whose operators are profiled; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=3, help="walks; 0: none")
    options = parser.parse_args()
    given = protocol(options.words)
    bench, few = Bench(given, options.blocks), Bench(given, options.profiled)
    per_second = rate()
    print(
        f"{torch.get_num_threads()} threads, {per_second / 1e9:.0f} GFLOP/s; {given.loaded.name}, {len(bench.blocks)} blocks, "
        f"{given.ids_BT.numel()} tokens in batches of {given.batch_size}"
    )
    for name in options.methods:
        for propagate in options.propagate:
            method = METHODS[name]
            print(f"\n{name}, propagate={propagate}")
            walks = [bench.walk(method, propagate) for _ in range(options.repeats)]
            if walks:
                ratios = sorted(found.efficiency(per_second) for found in walks)
                walked, bare, operations = (statistics.median(each) for each in zip(*walks, strict=True))
                print(
                    f"  efficiency {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}): "
                    f"walk {walked:.1f} s, bare {bare:.1f} s, Grams {operations / per_second:.1f} s"
                )
            print(f"  stages\n{shares(bench.stages(method, propagate), 5)}", flush=True)
            if options.profiled:
                print(
                    f"  operators of {options.profiled} blocks\n{shares(few.operators(method, propagate), 12)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()

"""The cost of each method that does more than score: its time as a multiple of one float32 product (O x I) (I x I) for the layer.

    python -m experiments.bench.methods        or, for one layer:  python -m experiments.bench.methods 1536x576 --repeats 9

The problem and the timing are those of the correctors' benchmark, at 60 %. Nothing is shared between calls, although a run shares
some of it between q, k and v.
"""

from __future__ import annotations

import argparse
import statistics

from sparsity.core import Folded, Method, Stats, Tap
from sparsity.methods import ADMM, ALPS, SparseGPT
from sparsity.patterns import Unstructured
from sparsity.statistics import Gram

from .correctors import SITE, measure, problem, seconds, shape

ROWS: dict[str, Method] = {
    "sparsegpt": SparseGPT("layer", 0.01, 128),
    "admm, as published": ADMM("row", 20, 15, 5, "norm", 0.1, 1.0),
    "admm": ADMM("layer", 20, 5, 5, "surgeon", 0.01, 1.5),
    "alps": ALPS("layer", 300, 3, "norm", 0.01, 0.1),
    "alps, surgeon": ALPS("layer", 300, 3, "surgeon", 0.01, 0.1),
}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    layers = [(576, 576), (1536, 576), (4096, 4096)]
    parser.add_argument("layers", nargs="*", type=shape, default=layers, help="outputs x inputs, as 1536x576")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for outputs, inputs in options.layers:
        layer, _, state = problem(outputs, inputs)
        each = min(seconds(lambda: layer.weight_OI @ state.gram_II) for _ in range(5))  # noqa: B023
        print(
            f"\n{outputs} x {inputs}, a product takes {1000 * each:.1f} ms; times in products: median (smallest to largest)"
        )
        for label, method in ROWS.items():

            def prune() -> object:
                stats = Stats(SITE, {Tap(Gram()): Folded(state)})  # noqa: B023
                return method.prune(layer, Unstructured(0.6), stats)  # noqa: B023

            ratios = sorted(measure(prune, layer, state, options.repeats))
            print(f"  {label:34} {statistics.median(ratios):7.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()

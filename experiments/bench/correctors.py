"""The cost of each corrector: its time as a multiple of the time of one float32 product (O x I) (I x I) for the same layer.

    make bench        or: python -m experiments.bench.correctors 1536x576 --repeats 9

The inputs are random and correlated; `wanda` removes half of every row. Products and correctors are timed alternately, so that
both run under the same load. The table gives the median of the ratios, the smallest and the largest. "The solve alone" is
`optimal` without the line search, which keeps the loss from rising, and without the facts for the layer table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from sparsity.core import Corrector, Folded, Layer, Pruned, Site, Stats, Tap
from sparsity.correctors import Greedy, Hessian, Optimal
from sparsity.methods import Wanda
from sparsity.patterns import Unstructured
from sparsity.quadratic import conjugate_gradients, rows_of_panel
from sparsity.statistics import Gram, GramState, SquaredNorm, SquaredNormState

OPTIMAL = Optimal(10, 0.01, None, "float32", "all", 0.05, "l2")
ROWS: dict[str, Corrector] = {
    "optimal, 10 steps": OPTIMAL,
    "optimal, 10 steps in a box of 5 %": Optimal(10, 0.01, 0.05, "float32", "all", 0.05, "l2"),
    "greedy, weakest 5 %": Greedy("weakest", 0.05, "l2", 0.01, False, 1e-6, 1),
    "greedy, weakest 5 %, early stop": Greedy("weakest", 0.05, "l2", 0.01, True, 1e-6, 1),
    "greedy, all": Greedy("all", 0.05, "l2", 0.01, False, 1e-6, 1),
    "hessian, top 5 %": Hessian("top", 0.05, "l2", 0.05, 1e-5),
}
SITE = Site(0, "bench", "mlp")


def problem(outputs: int, inputs: int) -> tuple[Layer, Pruned, GramState]:
    """A random layer, the result of `wanda` on it, and its Gram matrix."""
    g = torch.Generator().manual_seed(0)
    # like activations, every input has its own noise and a part in a few common directions
    common_KI = torch.randn(max(inputs // 16, 1), inputs, generator=g)
    x_NI = torch.randn(2 * inputs, len(common_KI), generator=g) @ common_KI / len(common_KI) ** 0.5
    x_NI += torch.randn(x_NI.shape, generator=g)
    layer = Layer(SITE, torch.randn(outputs, inputs, generator=g))
    norm = Folded(SquaredNormState(x_NI.square().sum(0), len(x_NI)))
    pruned = Wanda("row").prune(layer, Unstructured(0.5), Stats(SITE, {Tap(SquaredNorm()): norm}))
    return layer, pruned, GramState(x_NI.T @ x_NI, len(x_NI))


def seconds(call: Callable[[], object]) -> float:
    """The seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def solve(layer: Layer, pruned: Pruned, state: GramState) -> Tensor:
    """The corrected weights of `OPTIMAL` without line search and facts."""
    system, corrected_OI = OPTIMAL.system(state), torch.empty_like(layer.weight_OI)
    wholes = (layer.weight_OI, pruned.weight_OI, pruned.keep_OI, corrected_OI)
    panels = zip(*(whole.split(rows_of_panel(len(state.gram_II))) for whole in wholes), strict=True)
    for dense_PI, given_PI, keep_PI, corrected_PI in panels:
        pull_PI = ((dense_PI - given_PI) / system.scale_I) @ system.matrix_II
        free_PI = keep_PI.to(pull_PI.dtype)
        solved = conjugate_gradients(system.matrix_II, pull_PI, free_PI, OPTIMAL.steps, system.low_IK, system.pairs_IJ)
        torch.addcmul(given_PI, solved.change_OI, system.scale_I, out=corrected_PI)
    return corrected_OI


def measure(work: Callable[[], object], layer: Layer, state: GramState, repeats: int) -> Iterator[float]:
    """The time of `work` divided by that of a product, `repeats` times."""
    out_OI = torch.empty_like(layer.weight_OI)

    def product() -> object:
        return torch.mm(layer.weight_OI, state.gram_II, out=out_OI)

    product(), work()
    for _ in range(repeats):
        before, worked, after = seconds(product), seconds(work), seconds(product)
        yield worked / ((before + after) / 2)


def shape(text: str) -> tuple[int, int]:
    """Outputs and inputs of a layer, from a text such as "1536x576"."""
    outputs, inputs = map(int, text.split("x"))
    return outputs, inputs


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "layers", nargs="*", type=shape, default=[(1536, 576), (4096, 4096)], help="outputs x inputs, as 1536x576"
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; times in products of the layer: median (smallest to largest)")
    # The C library keeps freed memory up to twice the largest block freed so far (at most 32 MiB). It returns the rest to the
    # system, and new pages must be cleared. A real run has freed such blocks already; a fresh process would pay three products
    # for this.
    torch.zeros(31 * 2**18)
    for outputs, inputs in options.layers:
        layer, pruned, state = problem(outputs, inputs)
        each = min(seconds(lambda: layer.weight_OI @ state.gram_II) for _ in range(5))  # noqa: B023
        print(f"\n{outputs} x {inputs}, a product takes {1000 * each:.1f} ms")

        def correct(corrector: Corrector) -> object:
            # nothing is shared between calls, although a run shares some of it between layers
            return corrector.correct(layer, pruned, Stats(SITE, {Tap(Gram()): Folded(state)}))  # noqa: B023

        rows: dict[str, Callable[[], object]] = {
            "optimal, 10 steps, the solve alone": partial(solve, layer, pruned, state)
        }
        rows |= {label: partial(correct, corrector) for label, corrector in ROWS.items()}
        for label, work in rows.items():
            ratios = sorted(measure(work, layer, state, options.repeats))
            print(f"  {label:34} {statistics.median(ratios):10.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()

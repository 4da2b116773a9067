"""What each corrector costs, in products: its time as a multiple of one float32 product (O x I) (I x I) of the same layer.

    make bench        or: python -m experiments.bench.correctors 1536x576 --repeats 9

Random correlated inputs, half of every row removed by `wanda`. A product and a corrector are timed in turn, so that both see
the same machine, and the table gives the median of the ratios with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from sparsity.core import Corrector, Folded, Layer, Pruned, Site, Stats, Tap
from sparsity.correctors import Greedy, Hessian, Optimal
from sparsity.methods import Wanda
from sparsity.patterns import Unstructured
from sparsity.statistics import Gram, GramState, SquaredNorm, SquaredNormState

ROWS: dict[str, Corrector] = {
    "optimal, 10 steps": Optimal(10, 0.01, None, "float32", "all", 0.05, "l2"),
    "optimal, 10 steps in a box of 5 %": Optimal(10, 0.01, 0.05, "float32", "all", 0.05, "l2"),
    "greedy, weakest 5 %": Greedy("weakest", 0.05, "l2", 0.01, False, 1e-6, 1),
    "greedy, weakest 5 %, early stop": Greedy("weakest", 0.05, "l2", 0.01, True, 1e-6, 1),
    "greedy, all": Greedy("all", 0.05, "l2", 0.01, False, 1e-6, 1),
    "hessian, top 5 %": Hessian("top", 0.05, "l2", 0.05, 1e-5),
}
SITE = Site(0, "bench", "mlp")


def problem(outputs: int, inputs: int) -> tuple[Layer, Pruned, GramState]:
    g = torch.Generator().manual_seed(0)
    # every input has its own noise and a share in a few common directions, as activations do
    common_KI = torch.randn(max(inputs // 16, 1), inputs, generator=g)
    x_NI = torch.randn(2 * inputs, len(common_KI), generator=g) @ common_KI / len(common_KI) ** 0.5
    x_NI += torch.randn(x_NI.shape, generator=g)
    layer = Layer(SITE, torch.randn(outputs, inputs, generator=g))
    norm = Folded(SquaredNormState(x_NI.square().sum(0), len(x_NI)))
    pruned = Wanda("row").prune(layer, Unstructured(0.5), Stats(SITE, {Tap(SquaredNorm()): norm}))
    return layer, pruned, GramState(x_NI.T @ x_NI, len(x_NI))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(corrector: Corrector, layer: Layer, pruned: Pruned, state: GramState, repeats: int) -> Iterator[float]:
    """Ratios. Everything that a run would share between layers is derived afresh each time."""
    out_OI = torch.empty_like(layer.weight_OI)

    def product() -> object:
        return torch.mm(layer.weight_OI, state.gram_II, out=out_OI)

    def correct() -> object:
        return corrector.correct(layer, pruned, Stats(SITE, {Tap(Gram()): Folded(state)}))

    product(), correct()
    for _ in range(repeats):
        before, corrected, after = seconds(product), seconds(correct), seconds(product)
        yield corrected / ((before + after) / 2)


def shape(text: str) -> tuple[int, int]:
    outputs, inputs = map(int, text.split("x"))
    return outputs, inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "layers", nargs="*", type=shape, default=[(1536, 576), (4096, 4096)], help="outputs x inputs, as 1536x576"
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; times in products of the layer: median (smallest to largest)")
    for outputs, inputs in options.layers:
        layer, pruned, state = problem(outputs, inputs)
        each = min(seconds(lambda: layer.weight_OI @ state.gram_II) for _ in range(5))  # noqa: B023
        print(f"\n{outputs} x {inputs}, a product takes {1000 * each:.1f} ms")
        for label, corrector in ROWS.items():
            ratios = sorted(measure(corrector, layer, pruned, state, options.repeats))
            print(f"  {label:34} {statistics.median(ratios):7.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()

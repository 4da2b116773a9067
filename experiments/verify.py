"""make verify: checks on a real model that changes without effect leave the pruned model identical, to the last bit.

Exits with 1 if one does not. Without a correction, the mask and the weights must be Wanda's in all of these ways:

    salience    running sums of squares, or the diagonal of a Gram matrix, which is folded by independent code in this file
    batches     all calibration sequences in one batch, a few at a time, one at a time
    reductions  Route with Wanda everywhere; NeuronRank on top of Wanda with every exponent of its factor at 0;
                greedy with a step of 0; hessian and optimal with a max_change of 0

Each walk starts from the dense model and prunes every layer of every block. Compared are the hashes of all masks and of all
parameters of the model.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from sparsity.core import Corrector, Criterion, Layer, Method, Scope, Site, Stats, Tap
from sparsity.correctors import Greedy, Hessian, NoCorrection, Optimal
from sparsity.datasets import sample, tokenise
from sparsity.engine import plan, prune
from sparsity.methods import NeuronRank, Route, TfIdf, Wanda
from sparsity.models import Decoder
from sparsity.options.components import build, components
from sparsity.options.settings import read, resolve_device
from sparsity.stream import BlockStream

CONF = Path(__file__).parents[1] / "conf"
NO = NoCorrection()


class Gram64(NamedTuple):
    """The Gram matrix in float64, and the number of tokens."""

    gram_II: Tensor
    tokens: int


@dataclass(frozen=True)
class Gram64Fold:
    """The statistic X'X in float64, written independently of sparsity/statistics."""

    grouping: None = None

    def zero(self, x_BTI: Tensor, rows: int) -> Gram64:
        return Gram64(x_BTI.new_zeros(x_BTI.shape[-1], x_BTI.shape[-1], dtype=torch.float64), 0)

    def add(self, state: Gram64, x_BTI: Tensor, labels_BT: Tensor | None) -> Gram64:
        x_NI = x_BTI.double().reshape(-1, x_BTI.shape[-1])
        return Gram64(state.gram_II + torch.einsum("ni,nk->ik", x_NI, x_NI), state.tokens + x_NI.shape[0])

    def merge(self, a: Gram64, b: Gram64) -> Gram64:
        return Gram64(a.gram_II + b.gram_II, a.tokens + b.tokens)

    def finite(self, state: Gram64) -> bool:
        return bool(state.gram_II.isfinite().all())


@dataclass(frozen=True)
class WandaByGram(Criterion):
    """Wanda's score from the diagonal of a Gram matrix: |W_oi| * sqrt(G_ii / N)."""

    scope: Scope

    def needs(self, site: Site) -> Sequence[Tap[Any]]:
        return (Tap(Gram64Fold()),)

    def score(self, layer: Layer, stats: Stats) -> Tensor:
        gram_II, tokens = stats[Tap(Gram64Fold())]
        return layer.weight_OI.abs().float() * gram_II.diagonal().div(tokens).sqrt().float()


class Outcome(NamedTuple):
    """The hashes of a pruned model."""

    masks: str  # sha256 over all masks
    weights: str  # sha256 over all parameters


class Bench:
    """A model that is restored to its dense weights before every walk."""

    def __init__(self, words: Sequence[str]):
        config = compose(words)
        settings, parts = read(config), build(components(config))
        loaded = parts.model.load(settings.torch_dtype)
        self.decoder = Decoder(loaded.model)
        self.dense = {site: self.decoder.layer(site).weight_OI.clone() for site in self.decoder.sites}
        self.pattern, self.calibration = parts.pattern, settings.calibration
        ids_N = tokenise(parts.dataset.calibration_text(), loaded.tokenizer)
        generator = torch.Generator().manual_seed(self.calibration.seed)
        self.ids_BT = sample(ids_N, self.calibration.num_sequences, self.calibration.seqlen, generator)
        self.device = resolve_device(settings.device)

    def walk(self, method: Method, corrector: Corrector = NO, batch_size: int | None = None) -> Outcome:
        for site, weight_OI in self.dense.items():
            self.decoder.blocks[site.block].write(site, weight_OI)
        stream = BlockStream(
            self.decoder,
            self.ids_BT,
            batch_size=batch_size or self.calibration.batch_size,
            propagate=self.calibration.propagate,
            device=self.device,
        )
        keeps = hashlib.sha256()
        for report in prune(stream, plan(self.decoder, method, self.pattern, corrector)):
            keeps.update(np.packbits(report.keep_OI.cpu().numpy()).tobytes())
        return Outcome(keeps.hexdigest(), self.decoder.fingerprint())


def compose(words: Sequence[str]) -> DictConfig:
    """The configuration of a small run, changed by the options of the command line."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", ["calibration.num_sequences=8", "calibration.seqlen=256", *words])


def main(words: Sequence[str]) -> int:
    """Run the command. Returns the exit status."""
    bench = Bench(words)
    wanda = Wanda("row")
    factor = TfIdf(
        weight_exp=1.0, tf_exp=0.0, idf_exp=0.0, spike_exp=0.0, quantile=0.6, normalise=True,
        num_topics=None, window=32, activation="hidden", seed=0,
    )  # fmt: skip
    claims: dict[str, Callable[[], Outcome]] = {
        "salience: diagonal of a Gram matrix": lambda: bench.walk(WandaByGram("row")),
        "batches: all sequences at once": lambda: bench.walk(wanda, batch_size=len(bench.ids_BT)),
        "batches: one sequence at a time": lambda: bench.walk(wanda, batch_size=1),
        "batches: Gram matrix, one at a time": lambda: bench.walk(WandaByGram("row"), batch_size=1),
        "reduction: Route, wanda everywhere": lambda: bench.walk(Route({"attention": wanda, "mlp": Wanda("row")})),
        "reduction: NeuronRank on wanda, exponents 0": lambda: bench.walk(NeuronRank(wanda, 1.0, factor)),
        "reduction: greedy, step 0": lambda: bench.walk(wanda, Greedy("all", 1.0, "l2", 0.0, False, 0.0, 1)),
        "reduction: hessian, max_change 0": lambda: bench.walk(wanda, Hessian("all", 1.0, "l2", 0.0, 1e-5)),
        "reduction: optimal, max_change 0": lambda: bench.walk(
            wanda, Optimal(10, 0.01, 0.0, "float32", "all", 1.0, "l2")
        ),
    }
    reference = bench.walk(wanda)
    layers, tokens = len(bench.dense), bench.ids_BT.numel()
    print(f"wanda, {bench.pattern}, {layers} layers, {tokens} tokens in batches of {bench.calibration.batch_size}")
    print(f"mask {reference.masks[:16]}  weights {reference.weights[:16]}\n")
    different = 0
    for claim, walk in claims.items():
        start = time.perf_counter()
        found = walk()
        parts = [name for name in Outcome._fields if getattr(found, name) != getattr(reference, name)]
        different += bool(parts)
        verdict = f"DIFFERENT {' and '.join(parts)}" if parts else "identical"
        print(f"{claim:45} {verdict:28} {found.masks[:16]} {found.weights[:16]} {time.perf_counter() - start:6.1f} s")
    print(f"\n{len(claims) - different} of {len(claims)} identical to wanda, bit for bit")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

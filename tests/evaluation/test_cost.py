"""Sizes are counted, not estimated; both models are timed; the sparse kernels are refused where there are none."""

from __future__ import annotations

import pytest
import torch
from checkpoints import tiny
from safetensors.torch import load_file

from sparsity.core import UserError
from sparsity.evaluation import Cost
from sparsity.evaluation.cost import timed
from sparsity.models import Decoder
from sparsity.models.packed import FILE, save_packed

NONE = torch.empty(0)


def halved() -> Decoder:
    decoder = Decoder(tiny().model)
    for block in decoder.blocks:
        for linear in block.linears.values():
            with torch.no_grad():
                linear.module.weight[:, ::2] = 0
    return decoder


def test_sizes_are_those_of_the_model_and_of_its_packed_file(tmp_path):
    dense, pruned = Decoder(tiny().model), halved()
    evaluator = Cost(seqlen=16, batch_size=2, repeats=3, semi_structured=False)
    measured = evaluator.compare(pruned, NONE, evaluator.reference(dense, NONE))
    tensors = dict(pruned.model.named_parameters())
    save_packed(((name, p.detach()) for name, p in tensors.items()), tmp_path / FILE)
    stored = sum(t.numel() * t.element_size() for t in load_file(tmp_path / FILE).values())
    all_weights = sum(p.numel() for p in tensors.values())
    prunable = sum(linear.module.weight.numel() for block in pruned.blocks for linear in block.linears.values())
    a, b = measured.summary["dense"], measured.summary["pruned"]
    assert (a["parameters"], a["bytes"]) == (b["parameters"], b["bytes"]) == (all_weights, 4 * all_weights)
    assert a["nonzero"] - b["nonzero"] == prunable // 2
    assert a["bytes_packed"] == a["bytes"]
    assert b["bytes_packed"] == stored == b["bytes"] - prunable * 4 // 2 + prunable // 8
    for which in ("dense", "pruned"):
        seconds = sorted(row[f"seconds_{which}"] for row in measured.rows)
        assert measured.summary[which]["tokens_per_second"] == pytest.approx(2 * 16 / seconds[1])
    assert measured.table == "cost"


def test_it_warms_up_once_and_times_every_repeat():
    calls = []
    found = timed(lambda: calls.append(1), torch.device("cpu"), 4)
    assert (len(calls), len(found)) == (5, 4)
    assert min(found) > 0


def test_sparse_kernels_need_cuda():
    with pytest.raises(UserError, match="semi_structured=true cannot run on cpu: expected device=cuda"):
        Cost(16, 1, 1, True).reference(Decoder(tiny().model), NONE)


def test_out_of_range():
    with pytest.raises(UserError, match="repeats=0 is not valid: expected a whole number >= 1"):
        Cost(16, 1, 0, False)

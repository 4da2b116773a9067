"""The walk on a real GPU (`make test-cuda`): it prunes and repairs what the CPU does, one block at a time, in full precision."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import architectures as zoo
import pytest
import torch
from transformers import LlamaConfig

from sparsity.allocation import Owl, Sensitivity
from sparsity.correctors import Greedy, Hessian, NoCorrection, Optimal
from sparsity.engine import plan, prune
from sparsity.evaluation import Cost, Divergence
from sparsity.methods import RIA, Magnitude, NeuronRank, NeuronRankOld, SparseGPT, TfIdf, Wanda
from sparsity.models import Decoder
from sparsity.patterns import NofM, Unstructured
from sparsity.statistics import Gram
from sparsity.stream import BlockStream

pytestmark = pytest.mark.cuda

HALF = Unstructured(0.5)
CUDA = torch.device("cuda")


def llama(**sizes: int) -> Decoder:
    return Decoder(zoo.build(LlamaConfig(**zoo.LLAMA | sizes)))


def walk(
    decoder: Decoder,
    method: Any,
    device: torch.device,
    pattern: Any = HALF,
    corrector: Any = NoCorrection(),  # noqa: B008 (a value)
    **options: Any,
) -> Iterator[Any]:
    options = {"batch_size": 2, "propagate": "pruned"} | options
    stream = BlockStream(decoder, zoo.ids(), device=device, **options)
    return prune(stream, plan(decoder, method, pattern, corrector, layer_error=True))


def exhaust(reports: Iterator[Any]) -> None:
    """Prune and keep no report, like a run: a report holds its `keep_OI` on the device."""
    deque(reports, maxlen=0)


DOC, TOPIC = (TfIdf(1.0, 1.0, 0.5, 0.5, 0.6, True, num_topics, 4, "hidden", 0) for num_topics in (None, 4))
METHODS = [
    Wanda("row"),
    Wanda("layer"),
    RIA("row", 0.5),
    NeuronRankOld("layer", 1.0, 1.0, 1.0, 0.1, "gate"),
    NeuronRank(Magnitude("layer"), 1.0, DOC),
    NeuronRank(Wanda("layer"), 2.0, TOPIC),
    SparseGPT("layer", 0.01, 16),
    SparseGPT("row", 0.01, 128),
]
SOME = {"select": "moderate", "fraction": 0.25, "salience": "james_stein"}
CORRECTORS = [
    Greedy(step=0.01, early_stop=True, tolerance=1e-6, passes=2, **SOME),
    Greedy(step="optimal", early_stop=False, tolerance=0.0, passes=1, **SOME),
    Hessian(max_change=0.05, damp=1e-5, **SOME),
    Optimal(steps=10, damp=0.01, max_change=None, precision="float32", **SOME | {"select": "all"}),
    Optimal(steps=30, damp=0.01, max_change=0.05, precision="float64", **SOME),
]


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
@pytest.mark.parametrize("pattern", [HALF, NofM(2, 4)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_device_prunes_what_the_cpu_prunes(method, pattern, propagate):
    decoders = {device: llama() for device in (torch.device("cpu"), CUDA)}
    here, there = (
        list(walk(decoder, method, device, pattern, propagate=propagate)) for device, decoder in decoders.items()
    )
    assert {report.keep_OI.device.type for report in there} == {"cuda"}
    differing = sum(int((a.keep_OI != b.keep_OI.cpu()).sum()) for a, b in zip(here, there, strict=True))
    assert differing <= 0.001 * sum(report.keep_OI.numel() for report in here)  # ties within rounding
    for a, b in zip(here, there, strict=True):
        assert a.asked == a.found == b.asked == b.found
        assert a.error == pytest.approx(b.error, rel=1e-2)
        one, other = (decoder.layer(a.site).weight_OI for decoder in decoders.values())
        assert (one - other).norm() <= 1e-2 * one.norm()


@pytest.mark.parametrize("method", [Wanda("row"), SparseGPT("layer", 0.01, 16)], ids=str)
@pytest.mark.parametrize("corrector", CORRECTORS, ids=str)
def test_the_device_corrects_what_the_cpu_corrects(corrector, method):
    """With dense propagation, so that a tie that falls otherwise changes no other layer."""
    decoders = {device: llama() for device in (torch.device("cpu"), CUDA)}
    here, there = (
        list(walk(decoder, method, device, corrector=corrector, propagate="dense"))
        for device, decoder in decoders.items()
    )
    for a, b in zip(here, there, strict=True):
        assert b.error <= b.error_before * (1 + 1e-4)
        assert a.error == pytest.approx(b.error, rel=2e-2)


def test_blocks_visit_the_device_one_at_a_time():
    decoder = llama()
    for report in walk(decoder, Wanda("row"), CUDA):
        there = {n.split(".")[2] for n, p in decoder.model.named_parameters() if p.device.type == "cuda"}
        assert there == {str(report.site.block)}
    assert {p.device.type for p in decoder.model.parameters()} == {"cpu"}
    assert not any("forward" in vars(block.module) for block in decoder.blocks)


@pytest.mark.parametrize("method", [Wanda("row"), SparseGPT("layer", 0.01, 128)], ids=str)
def test_the_walk_needs_one_block_not_the_model(method):
    def deep() -> Decoder:
        return llama(num_hidden_layers=32, hidden_size=256, intermediate_size=512)

    exhaust(walk(deep(), method, CUDA))  # the libraries take their own memory at first use
    decoder = deep()
    size = sum(p.numel() * p.element_size() for p in decoder.model.parameters())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    resident = torch.cuda.memory_allocated()
    exhaust(walk(decoder, method, CUDA))
    peak = torch.cuda.max_memory_allocated() - resident
    assert 0 < peak < size / 2, f"{peak / 2**20:.1f} MiB for a model of {size / 2**20:.1f} MiB"
    assert torch.cuda.memory_allocated() - resident < size / 8  # nothing is left behind


def gram_error() -> float:
    """The relative error of a Gram matrix that is folded on the device in float32. With TF32, 10 of 23 bits: 1e-4, not 1e-7."""
    x_BTI = torch.randn(4, 256, 128, generator=torch.Generator().manual_seed(0))
    state = Gram().add(Gram().zero(x_BTI.to(CUDA)), x_BTI.to(CUDA))
    exact_II = Gram().add(Gram().zero(x_BTI.double()), x_BTI.double()).gram_II
    return float((state.gram_II.cpu() - exact_II).norm() / exact_II.norm())


def test_the_gram_is_folded_in_full_precision():
    assert torch.get_float32_matmul_precision() == "highest"
    assert gram_error() < 1e-5


def test_a_gram_in_tf32_is_told_from_one_in_full_precision(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    has_tf32 = torch.cuda.get_device_capability()[0] >= 8
    assert (gram_error() > 1e-5) == has_tf32


def test_the_divergence_of_a_device_is_that_of_the_cpu():
    ids_N = zoo.ids().flatten()
    found = []
    for device in (torch.device("cpu"), CUDA):
        dense, pruned = llama(), llama()
        exhaust(walk(pruned, Magnitude("layer"), torch.device("cpu")))
        evaluator = Divergence(16, None, 2)
        with dense.on(device), pruned.on(device):
            found.append(evaluator.compare(pruned, ids_N, evaluator.reference(dense, ids_N)).summary)
    assert found[1]["kl"] == pytest.approx(found[0]["kl"], rel=1e-3)
    assert found[1]["agreement"] == pytest.approx(found[0]["agreement"], abs=0.05)


def test_the_sparse_kernels_compute_what_the_layers_do():
    decoder = Decoder(
        zoo.build(LlamaConfig(**zoo.LLAMA | {"hidden_size": 256, "intermediate_size": 512}), torch.bfloat16)
    )
    exhaust(walk(decoder, Magnitude("row"), CUDA, NofM(2, 4)))
    evaluator, none = Cost(64, 2, 3, True), torch.empty(0)
    with decoder.on(CUDA):
        measured = evaluator.compare(decoder, none, evaluator.reference(decoder, none)).summary["semi_structured"]
    assert 0 < measured["layers"] <= len(decoder.sites)
    assert measured["difference"] < 0.1
    assert min(measured["seconds_dense"], measured["seconds_sparse"]) > 0


@pytest.mark.parametrize("allocation", [Owl("block", 2.0, 0.1), Sensitivity("role", 0.5, 2, 0.1)], ids=str)
def test_the_device_measures_what_layers_can_give_up_as_the_cpu_does(allocation):
    found = []
    for device in (torch.device("cpu"), CUDA):
        decoder = llama()
        stream = BlockStream(decoder, zoo.ids(), batch_size=2, propagate="dense", device=device)
        shapes = {site: tuple(decoder.layer(site).weight_OI.shape) for site in decoder.sites}
        found.append(allocation.measure(decoder, stream, zoo.ids(), shapes))
        assert decoder.device.type == "cpu"
    for name, cpu in found[0].items():
        assert found[1][name].device.type == "cpu"
        torch.testing.assert_close(found[1][name], cpu, rtol=1e-3, atol=1e-3)

"""A model that is read block by block is the same model: its masks, its weights, its predictions and its files, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import architectures as zoo
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from sparsity.correctors import NoCorrection, Optimal
from sparsity.engine import plan, prune
from sparsity.evaluation import Divergence, Perplexity, Walked
from sparsity.methods import Magnitude, SparseGPT, Wanda
from sparsity.models import Decoder
from sparsity.models.files import INDEX, SINGLE, Files
from sparsity.models.skeleton import skeleton
from sparsity.patterns import NofM, Unstructured
from sparsity.refine import BlockTuning
from sparsity.stream import BlockStream

CPU = torch.device("cpu")
HALF = Unstructured(0.5)


def pair(folder: Path, name: str, dtype: torch.dtype = torch.float32, shard: str = "50GB") -> tuple[Decoder, Decoder]:
    """A checkpoint of this architecture, loaded as transformers does, and with its blocks left in the files."""
    zoo.build(zoo.CONFIGS[name](), dtype).save_pretrained(folder, max_shard_size=shard)
    return whole(folder), streamed(folder)


def whole(folder: Path) -> Decoder:
    return Decoder(AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False))


def streamed(folder: Path) -> Decoder:
    model = AutoModelForCausalLM.from_pretrained(folder)
    files = Files(skeleton(model.config, model.dtype), sorted(folder.glob("*.safetensors")))
    assert not files.missing | files.spare
    return Decoder(files.model, files=files)


def state(decoder: Decoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for named in decoder.parameters() for name, tensor in named.items()}


def same(a: Decoder, b: Decoder) -> None:
    one, two = state(a), state(b)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype, name
        assert torch.equal(tensor, two[name]), name


def at_rest(decoder: Decoder) -> bool:
    return all(p.is_meta for block in decoder.blocks for p in block.module.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_the_model_is_that_of_transformers(tmp_path, name, dtype):
    ordinary, decoder = pair(tmp_path, name, dtype)
    assert at_rest(decoder)
    same(ordinary, decoder)
    assert at_rest(decoder)
    assert ordinary.fingerprint() == decoder.fingerprint()
    assert ordinary.sites == decoder.sites
    buffers = dict(ordinary.model.named_buffers())
    assert buffers.keys() == dict(decoder.model.named_buffers()).keys()
    batches = zoo.ids().split(2)
    for a, b in zip(ordinary.logits_of(batches), Walked(decoder).logits_of(batches), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(ordinary.hidden_of(batches), Walked(decoder).hidden_of(batches), strict=True):
        assert torch.equal(a, b)


METHODS = {
    "magnitude": (Magnitude("layer"), HALF, NoCorrection(), "pruned"),
    "wanda": (Wanda("row"), NofM(2, 4), NoCorrection(), "pruned"),
    "sparsegpt": (SparseGPT("row", 0.01, 128), HALF, NoCorrection(), "dense"),
    "optimal": (Wanda("row"), HALF, Optimal(8, 0.01, None, "float32", "all", 1.0, "l2"), "pruned"),
}


@pytest.mark.parametrize("chosen", METHODS)
@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_it_is_pruned_to_the_same_bits(tmp_path, name, chosen):
    method, pattern, corrector, propagate = METHODS[chosen]
    keeps = []
    for decoder in (decoders := pair(tmp_path, name)):
        stream = zoo.stream(decoder, propagate=propagate)
        keeps.append([report.keep_OI for report in prune(stream, plan(decoder, method, pattern, corrector))])
    assert all(torch.equal(a, b) for a, b in zip(*keeps, strict=True))
    same(*decoders)
    assert at_rest(decoders[1])


@pytest.mark.parametrize("target", ["own", "dense"])
def test_a_block_is_refined_to_the_same_bits(tmp_path, target):
    tuning = BlockTuning(target=target, epochs=2, lr=1e-3, held_out=0.0, patience=1, seed=0)
    decoders = pair(tmp_path, "llama")
    for decoder in decoders:
        stream = BlockStream(decoder, zoo.ids(), batch_size=2, propagate="pruned", device=CPU, target=target)
        composed = plan(decoder, Wanda("row"), HALF, NoCorrection(), refinement=tuning)
        assert all(report.found == 0.5 for report in prune(stream, composed))
    same(*decoders)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", zoo.CONFIGS)
def test_what_is_saved_is_what_the_whole_model_saves(tmp_path, name, dtype):
    """Only the last two of three blocks are pruned, so that one is copied and two are linked."""
    decoders = pair(tmp_path / "dense", name, dtype)
    (tmp_path / "scratch").mkdir()
    decoders[1].files.keep_in(tmp_path / "scratch")
    for decoder in decoders:
        sites = [site for site in decoder.sites if site.block]
        list(prune(zoo.stream(decoder), plan(decoder, Wanda("row"), HALF, NoCorrection(), sites)))
    decoders[0].model.save_pretrained(tmp_path / "a")
    decoders[1].files.save(tmp_path / "b")

    expected, index = load_file(tmp_path / "a" / SINGLE), json.loads((tmp_path / "b" / INDEX).read_text())
    assert index["weight_map"].keys() == expected.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in expected.values())
    for key, shard in index["weight_map"].items():
        with safe_open(tmp_path / "b" / shard, framework="pt") as file:
            assert file.get_tensor(key).dtype == expected[key].dtype, key
            assert torch.equal(file.get_tensor(key), expected[key]), key
    for file in ("config.json", "generation_config.json"):
        a, b = (json.loads((tmp_path / which / file).read_text()) for which in "ab")
        assert a == b
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tmp_path / "b")
    same(decoders[0], Decoder(loaded))
    linked = [path.stat().st_nlink for path in sorted((tmp_path / "b").glob("*.safetensors"))]
    assert linked == [1, 1, 2, 2]
    same(decoders[0], streamed(tmp_path / "b"))  # and it streams again


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox"])
def test_shards_of_any_cut_are_read(tmp_path, name):
    ordinary, decoder = pair(tmp_path, name, shard="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    same(ordinary, decoder)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_names_without_the_base_models_prefix_are_understood(tmp_path, name):
    """The tensors of GPT-2's checkpoint on the hub have such names."""
    model = zoo.build(zoo.CONFIGS[name]())
    model.save_pretrained(tmp_path)
    prefix = f"{model.base_model_prefix}."
    short = {key.removeprefix(prefix): tensor for key, tensor in load_file(tmp_path / SINGLE).items()}
    save_file(short, tmp_path / SINGLE, {"format": "pt"})
    same(whole(tmp_path), streamed(tmp_path))


def test_a_checkpoint_of_another_dtype_is_converted_as_transformers_does(tmp_path):
    zoo.build(zoo.CONFIGS["llama"]()).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    files = Files(skeleton(model.config, torch.bfloat16), [tmp_path / SINGLE])
    same(Decoder(model), Decoder(files.model, files=files))


def test_the_checkpoint_is_never_written(tmp_path):
    _, decoder = pair(tmp_path, "llama")
    before = (tmp_path / SINGLE).read_bytes()
    list(prune(zoo.stream(decoder), plan(decoder, Wanda("row"), HALF, NoCorrection())))
    assert (tmp_path / SINGLE).read_bytes() == before


def test_it_is_restored_from_its_files(tmp_path):
    """The head, too, which is pruned in memory."""
    ordinary, decoder = pair(tmp_path, "llama")
    list(prune(zoo.stream(decoder), plan(decoder, Magnitude("layer"), HALF, NoCorrection(), head=True)))
    assert state(decoder)["lm_head.weight"].eq(0).float().mean() == 0.5
    decoder.files.restore()
    same(ordinary, decoder)


def test_a_block_that_is_lent_is_lent_to_everyone(tmp_path):
    """Nested contexts share the weights; only the end of the outer one stores them."""
    _, decoder = pair(tmp_path, "llama")
    block = decoder.blocks[1]
    site = next(iter(block.linears))
    with block.on(CPU):
        with block.at_hand():
            block.write(site, torch.zeros_like(block.layer(site).weight_OI))
        assert block.layer(site).weight_OI.count_nonzero() == 0
    assert at_rest(decoder)
    with block.at_hand():
        assert block.layer(site).weight_OI.count_nonzero() == 0


def test_what_was_half_done_when_it_failed_is_not_kept(tmp_path):
    ordinary, decoder = pair(tmp_path, "llama")
    block = decoder.blocks[1]
    site = next(iter(block.linears))

    def fails() -> None:
        with block.on(CPU):
            block.write(site, torch.zeros_like(block.layer(site).weight_OI))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    same(ordinary, decoder)


def test_a_block_that_nobody_changed_is_not_written(tmp_path):
    _, decoder = pair(tmp_path / "dense", "llama")
    (tmp_path / "scratch").mkdir()
    decoder.files.keep_in(tmp_path / "scratch")
    list(zoo.stream(decoder).blocks)
    decoder.check_finite()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_cannot_be_read_one_by_one_is_named(tmp_path):
    """Mixtral's experts are stored one by one and computed with as one tensor."""
    model = zoo.build(zoo.mixtral())
    model.save_pretrained(tmp_path)
    files = Files(skeleton(model.config, model.dtype), [tmp_path / SINGLE])
    assert len(files.converted) == 3 * 4 * 3
    assert all("experts" in key for key in files.converted)


def test_evaluators_find_the_same(tmp_path):
    ids_N = zoo.ids(1, 8 * 16)[0]
    found = []
    for decoder in pair(tmp_path, "llama"):
        model = Walked(decoder) if decoder.files else decoder
        evaluators = (Perplexity(16, None, 3), Divergence(16, None, 3))
        references = [evaluator.reference(model, ids_N) for evaluator in evaluators]
        list(prune(zoo.stream(decoder), plan(decoder, Wanda("row"), HALF, NoCorrection())))
        found.append([e.compare(model, ids_N, r) for e, r in zip(evaluators, references, strict=True)])
    assert found[0] == found[1]


def test_a_block_is_read_once_for_all_windows(tmp_path, monkeypatch):
    _, decoder = pair(tmp_path, "llama")
    list(Walked(decoder).logits_of(zoo.ids().split(2)))  # the first block is looked at once
    read, inner = [], Files.read_block
    monkeypatch.setattr(
        Files, "read_block", lambda files, block, names: read.append(block) or inner(files, block, names)
    )
    assert len(list(Walked(decoder).logits_of(zoo.ids().split(1)))) == 5
    assert read == [block.name for block in decoder.blocks]


def test_a_walk_that_leaves_the_numbers_names_block_and_text(tmp_path):
    _, decoder = pair(tmp_path, "llama")
    block = decoder.blocks[1]
    with block.at_hand():
        for site in block.linears:
            block.write(site, torch.full_like(block.layer(site).weight_OI, 1e30))
    with pytest.raises(ValueError, match=r"model\.layers\.1: .* on evaluation batch 0"):
        list(Walked(decoder).hidden_of(zoo.ids().split(2)))

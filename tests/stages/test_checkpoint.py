"""The checkpoint that a run saves: a model like the one before, but for the zeros that the result reports."""

import hashlib

import numpy as np
import pytest
import torch
from checkpoints import save_with_zeros, tiny, zeros
from commands import UNMEASURED, run
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from sparsity.models import Decoder

pytestmark = pytest.mark.usefixtures("work")


def hash_of(keeps) -> str:
    """result.json's mask_sha256: the bits of every keep mask, layer after layer."""
    return hashlib.sha256(b"".join(np.packbits(keep_OI.numpy()).tobytes() for keep_OI in keeps)).hexdigest()


def test_found_and_hash_are_those_of_the_checkpoint(saved):
    assert saved.result["sparsity"]["found"] == zeros(*saved.pruned.values()) == 0.5
    assert saved.result["sparsity"]["asked"] == 0.5
    assert saved.result["mask_sha256"] == hash_of(w != 0 for w in saved.pruned.values())  # no weight was zero before


def test_checkpoint_keeps_what_is_not_pruned(saved):
    """float32 and tied embeddings, tokenizer, chat template and generation settings."""
    before = tiny()
    model = AutoModelForCausalLM.from_pretrained(saved.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(saved.checkpoint)
    assert "lm_head.weight" not in saved.weights
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, before.model.lm_head.weight)
    assert {w.dtype for w in saved.weights.values()} == {model.dtype} == {torch.float32}
    text = "naïve café <|im_end|> → 東京"
    assert tokenizer(text)["input_ids"] == before.tokenizer(text)["input_ids"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.chat_template == before.tokenizer.chat_template
    chat = [{"role": "user", "content": "hello"}]
    assert "hello" in tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert GenerationConfig.from_pretrained(saved.checkpoint) == before.model.generation_config


def test_checkpoint_keeps_bfloat16_and_untied_embeddings():
    found = run(UNMEASURED, "dtype=bfloat16", "model.tie_word_embeddings=false", "save=true")
    model = AutoModelForCausalLM.from_pretrained(found.checkpoint)
    before = tiny(tie_word_embeddings=False).model
    assert {w.dtype for w in found.weights.values()} == {model.dtype} == {torch.bfloat16}
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert torch.equal(model.lm_head.weight, before.lm_head.weight.bfloat16())
    assert zeros(*found.pruned.values()) == 0.5


@pytest.mark.parametrize(
    "n,m,method,options",
    [(2, 4, "wanda", ["pattern=2of4"]), (1, 4, "sparsegpt", ["pattern=n_of_m", "pattern.n=1", "pattern.m=4"])],
)
def test_every_group_of_the_checkpoint_keeps_n(n, m, method, options):
    found = run(UNMEASURED, f"method={method}", *options, "save=true")
    model = AutoModelForCausalLM.from_pretrained(found.checkpoint)
    for site in Decoder(model).sites:
        weight_OI = model.get_parameter(f"{site.name}.weight")
        assert (weight_OI.unflatten(1, (-1, m)) != 0).sum(-1).eq(n).all(), site.name
    assert found.result["sparsity"]["asked"] == found.result["sparsity"]["found"] == 1 - n / m


def test_groups_with_zeros_of_their_own_keep_at_most_n(work):
    save_with_zeros(work / "own")
    found = run(UNMEASURED, "model=local", "model.path=own", "method=magnitude", "pattern=2of4", "save=true")
    kept = torch.cat([(w.unflatten(1, (-1, 4)) != 0).sum(-1).flatten() for w in found.pruned.values()])
    assert kept.max() == 2
    assert kept.min() == 0

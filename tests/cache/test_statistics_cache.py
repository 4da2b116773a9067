"""Calibrate once, prune many: recalled statistics are those that were folded, to the last bit, and nothing runs to get them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from commands import SMALL, UNMEASURED, Run, command, run
from safetensors import safe_open

from sparsity.cache.statistics import as_tensors, from_tensors
from sparsity.core import Tap
from sparsity.groupings import Documents
from sparsity.statistics import Activity, Gram, GroupedActivity, Moments, SquaredNorm
from sparsity.stream import BlockStream

pytestmark = pytest.mark.usefixtures("work")
DENSE = (UNMEASURED, "calibration.propagate=dense")


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """Grows by a block's index whenever one is run on a batch."""
    seen, inner = [], BlockStream._run

    def counted(self, block, *batch):
        seen.append(block.index)
        return inner(self, block, *batch)

    monkeypatch.setattr(BlockStream, "_run", counted)
    return seen


def kept() -> list[Path]:
    return sorted(Path("cache/statistics").glob("*/*.safetensors"))


COMPOSITIONS = [
    ("method=wanda",),
    ("method=wanda", "corrector=optimal", "corrector.salience=james_stein", "corrector.select=top"),
    ("method=sparsegpt", "pattern=2of4"),
    ("method=hybrid", "tfidf=doc"),
    ("method=neuronrank_tfidf", "tfidf=topic", "tfidf.num_topics=3"),
    ("method=neuronrank_old", "tfidf.activation=gate"),
    ("method=ria", "scope.last_blocks=1"),
]


@pytest.mark.parametrize("composition", COMPOSITIONS, ids=" ".join)
def test_without_the_cache_cold_and_warm_are_the_same(composition, passes):
    without = run(*DENSE, *composition, "cache.statistics=false", "save=true", into="without")
    assert kept() == []
    cold = run(*DENSE, *composition, "save=true", into="cold")
    assert kept() != []
    passes.clear()
    warm = run(*DENSE, *composition, "save=true", into="warm")
    assert passes == []
    for other in (cold, warm):
        assert other.result["mask_sha256"] == without.result["mask_sha256"]
        for name, weight in without.weights.items():
            assert torch.equal(other.weights[name], weight), name
    assert [row["relative_error"] for row in warm.layers] == [row["relative_error"] for row in without.layers]


def test_every_block_is_run_once_in_the_one_walk(passes):
    run(*DENSE, "method=sparsegpt")
    assert passes == [0, 1]  # one batch of four sequences, each block of the tiny model once


def test_only_what_is_missing_is_collected(passes):
    run(*DENSE, "method=wanda", into="a")
    first = kept()
    passes.clear()
    run(*DENSE, "method=wanda", "corrector=hessian", "scope.last_blocks=1", into="b")
    assert passes == [0, 1]
    [new] = set(kept()) - set(first)
    with safe_open(new, "pt") as file:
        assert "Gram" in file.metadata()["about"]
        assert "SquaredNorm" not in file.metadata()["about"]
    passes.clear()
    run(*DENSE, "method=sparsegpt", "scope.last_blocks=1", into="c")  # both are known by now
    assert passes == []


def test_layers_that_saw_the_same_tensors_share_a_state():
    """Or q, k and v would each derive a Cholesky factor, and the folder would be twice as large."""
    run(*DENSE, "method=sparsegpt", "scope.roles=[attention]")
    with safe_open(kept()[0], "pt") as file:
        assert len(file.keys()) == 2  # of q, k and v, and of o


@pytest.mark.parametrize(
    "other",
    ["model.seed=1", "calibration.seed=7", "calibration.batch_size=2", "dtype=bfloat16", "calibration.num_sequences=3"],
)
def test_another_model_or_text_is_collected_anew(other, passes):
    run(*DENSE, into="a")
    passes.clear()
    run(*DENSE, other, into="b")
    assert passes != []
    assert len({path.parent for path in kept()}) == 2


@pytest.mark.parametrize(
    "words", [("calibration.propagate=pruned",), ("calibration.propagate=dense", "method=magnitude")]
)
def test_what_cannot_be_shared_is_not_kept(words):
    run(UNMEASURED, *words)
    assert not Path("cache/statistics").exists()


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def empty(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("harm", [cut, flip, empty])
@pytest.mark.parametrize("block", [0, 1])
def test_a_damaged_file_is_named_and_collected_again(harm: Callable[[bytes], bytes], block, passes):
    first = run(*DENSE, "method=sparsegpt", into="a")
    file = kept()[block]
    file.write_bytes(harm(file.read_bytes()))
    passes.clear()
    ended = command(*SMALL, *DENSE, "method=sparsegpt", "hydra.run.dir=b")
    assert ended.status == 0, ended.err
    assert f"{file.name} is damaged" in ended.out.replace("\n", "")
    assert max(passes) == block  # no further than to what is missing
    assert Run(Path("b")).result["mask_sha256"] == first.result["mask_sha256"]
    passes.clear()
    run(*DENSE, "method=sparsegpt", into="c")
    assert passes == []


def head(data: bytes) -> bytes:
    return data.replace(b"SquaredNorm", b"SquaredNorn")


def test_a_run_reads_only_the_files_that_it_asks_for():
    """The Grams of a large model are gigabytes, and Wanda needs none of them."""
    run(*DENSE, "method=sparsegpt", "scope.last_blocks=1", into="a")
    [gram] = kept()
    gram.write_bytes(flip(gram.read_bytes()))
    ended = command(*SMALL, *DENSE, "method=wanda", "hydra.run.dir=b")
    assert "is damaged" in ended.out  # what is missing is looked for in every file first
    run(*DENSE, "method=sparsegpt", "scope.last_blocks=1", "rerun=true", into="a")
    [gram] = set(kept()) - {path for path in kept() if b"SquaredNorm" in path.read_bytes()}
    gram.write_bytes(flip(gram.read_bytes()))
    assert "is damaged" not in command(*SMALL, *DENSE, "method=wanda", "rerun=true", "hydra.run.dir=b").out


def test_a_file_that_no_longer_names_what_is_in_it_is_named(passes):
    first = run(*DENSE, "method=wanda", into="a")
    for file in kept():
        file.write_bytes(head(file.read_bytes()))
    ended = command(*SMALL, *DENSE, "method=wanda", "hydra.run.dir=b")
    assert ended.out.count("is damaged") == 2
    assert Run(Path("b")).result["mask_sha256"] == first.result["mask_sha256"]


def test_what_does_not_fit_is_not_kept_and_nothing_is_lost(passes):
    without = run(*DENSE, "cache.statistics=false", into="a")
    ended = command(*SMALL, *DENSE, "cache.limit_gib=0", "hydra.run.dir=b")
    assert ended.status == 0, ended.err
    assert "do not fit" in ended.out
    assert kept() == []
    assert Run(Path("b")).result["mask_sha256"] == without.result["mask_sha256"]


def test_what_would_not_fit_as_a_whole_drives_nothing_else_out(passes):
    run(*DENSE, "method=wanda", "calibration.seed=1", into="a")
    before = kept()
    size = before[0].stat().st_size
    ended = command(*SMALL, *DENSE, f"cache.limit_gib={2.5 * size / 2**30}", "hydra.run.dir=b", "method=sparsegpt")
    assert ended.status == 0, ended.err
    assert "do not fit into" in ended.out
    assert "each run collects them anew" in ended.out
    assert kept() == before


def test_a_cache_that_cannot_be_written_is_done_without(work):
    without = run(*DENSE, "cache.statistics=false", into="a")
    (work / "cache").mkdir(exist_ok=True)
    (work / "cache" / "statistics").write_text("in the way")
    found = run(*DENSE, into="b")
    assert found.result["mask_sha256"] == without.result["mask_sha256"]


def test_what_was_used_least_recently_goes_first(passes):
    for seed in (0, 1):
        run(*DENSE, f"calibration.seed={seed}", into=str(seed))
    size = sum(path.stat().st_size for path in kept()) / 2
    run(*DENSE, "calibration.seed=0", "rerun=true", into="0")  # so that the other one is the oldest
    run(*DENSE, "calibration.seed=2", f"cache.limit_gib={2.5 * size / 2**30}", into="2")
    passes.clear()
    for seed, again in ((0, []), (2, []), (1, [0, 1])):
        run(*DENSE, f"calibration.seed={seed}", "rerun=true", into=str(seed))
        assert sorted(set(passes)) == again


def test_a_state_survives_its_file():
    x_BTI = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    labels_BT = torch.tensor([[0, 0, 0], [1, 1, 1]])
    taps = [
        Tap(statistic)
        for statistic in (Gram(), SquaredNorm(), Moments(), Activity(threshold=0.1), GroupedActivity(Documents()))
    ]
    states = [tap.statistic.add(tap.statistic.zero(x_BTI, 2), x_BTI, labels_BT) for tap in taps]
    tensors, layout = as_tensors(states)
    for number, (tap, state) in enumerate(zip(taps, states, strict=True)):
        again = from_tensors(tap, layout[number], number, tensors, torch.device("cpu"))
        assert type(again) is type(state)
        for was, now in zip(state, again, strict=True):
            assert type(was) is type(now)
            assert torch.equal(was, now) if isinstance(was, torch.Tensor) else was == now

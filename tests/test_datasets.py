"""Text sources and token sequences: identities and limits, on small files with the layout of the hub's repositories."""

from __future__ import annotations

import gzip
import hashlib
import inspect
import json
import logging
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import sparsity.datasets
from sparsity.core import UserError
from sparsity.datasets import HubText, PyDocs, TextFiles, TextSource, sample, tokenise, windows
from sparsity.datasets.pydocs import evaluates

CONF = Path(__file__).parents[1] / "conf" / "dataset"
OPTIONS = sorted(CONF.glob("*.yaml"))
ROWS = ["", " = Title = \n", "A line with \r\n inside,\u2028 a separator and ünïcode.", "the last"]


def read_yaml(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def write_rows(path: Path, rows: list[str], field: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"number": list(range(len(rows))), field: rows}), path)
        return
    lines = "".join(json.dumps({field: row, "url": "u"}, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines, mtime=0) if path.suffix == ".gz" else lines)


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.stem)
def test_a_yaml_lists_exactly_the_arguments(path: Path) -> None:
    option = read_yaml(path)
    target = getattr(sparsity.datasets, option.pop("_target_").removeprefix("sparsity.datasets."))
    parameters = inspect.signature(target).parameters
    assert list(option) == list(parameters)
    assert all(parameter.default is parameter.empty for parameter in parameters.values())


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: p.stem)
def test_a_source_is_a_frozen_value(path: Path) -> None:
    option = read_yaml(path)
    target = getattr(sparsity.datasets, option.pop("_target_").removeprefix("sparsity.datasets."))
    source = target(**option)
    assert {source: 1}[target(**option)] == 1
    for field in fields(source):
        with pytest.raises(FrozenInstanceError):
            setattr(source, field.name, None)


# --- pydocs -----------------------------------------------------------------------------------------------------------


def squeezed(text: str) -> str:
    return " ".join(text.split())


def test_no_paragraph_of_the_evaluation_is_in_the_calibration() -> None:
    calibration, evaluation = PyDocs().calibration_text(), PyDocs().evaluation_text()
    calibrated = {squeezed(p) for p in calibration.split("\n\n")}
    evaluated = [squeezed(p) for p in evaluation.split("\n\n")]
    assert not calibrated.intersection(evaluated)
    assert len(set(evaluated)) == len(evaluated)
    assert len(calibration) > 200_000
    assert len(evaluation) > 60_000


def test_the_parts_of_pydocs_share_almost_no_wording() -> None:
    width = 50
    texts = (PyDocs().calibration_text(), PyDocs().evaluation_text())
    calibration, evaluation = (
        squeezed(re.sub(r"[-=+|]{2,}", " ", text)) for text in texts
    )  # the rules of tables are no wording
    known = {calibration[i : i + width] for i in range(len(calibration) - width + 1)}
    grams = [evaluation[i : i + width] for i in range(len(evaluation) - width + 1)]
    assert sum(gram in known for gram in grams) < 0.005 * len(grams)


def test_pydocs_leaves_nothing_out() -> None:
    from pydoc_data.topics import topics

    def words(texts: list[str]) -> set[str]:
        return {word for text in texts for word in text.split()}

    calibration, evaluation = PyDocs().calibration_text(), PyDocs().evaluation_text()
    assert words([calibration, evaluation]) == words(list(topics.values()))
    assert words([calibration]) >= words([text for topic, text in topics.items() if not evaluates(topic)])


# --- files ------------------------------------------------------------------------------------------------------------


def text_files(calibration: Path, evaluation: Path, field: str = "text", separator: str = "\n\n") -> TextFiles:
    return TextFiles(str(calibration), str(evaluation), field, separator)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text("something else", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.txt", "wiki.test.raw", "without_suffix"])
def test_a_text_file_is_itself(tmp_path: Path, other: Path, name: str) -> None:
    content = " = Ti\u2028tle = \r\n\r\n ünïcode \n\r tail \n".encode()
    (tmp_path / name).write_bytes(content)
    source = text_files(tmp_path / name, other)
    source.check()
    assert source.calibration_text().encode() == content
    assert source.evaluation_text() == "something else"


def test_a_table_is_its_rows_joined(tmp_path: Path, other: Path) -> None:
    (tmp_path / "rows.txt").write_bytes("--".join(ROWS).encode())
    for name in ("rows.jsonl", "rows.json", "rows.parquet"):
        write_rows(tmp_path / name, ROWS, field="column")
        source = text_files(tmp_path / name, other, "column", "--")
        source.check()
        assert source.calibration_text() == text_files(tmp_path / "rows.txt", other).calibration_text()


def test_a_last_line_may_end_or_not(tmp_path: Path, other: Path) -> None:
    write_rows(tmp_path / "ended.jsonl", ROWS)
    (tmp_path / "open.jsonl").write_bytes((tmp_path / "ended.jsonl").read_bytes().removesuffix(b"\n"))
    texts = [text_files(tmp_path / f"{name}.jsonl", other).calibration_text() for name in ("ended", "open")]
    assert texts[0] == texts[1]


def test_tilde_is_the_home_folder(tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    source = TextFiles("~/mine.txt", "~/other.txt", "text", "")
    source.check()
    assert (source.calibration_text(), source.evaluation_text()) == ("mine", "something else")


@pytest.mark.parametrize(
    "name,content,message",
    [
        ("missing.txt", None, r"dataset\.calibration=.*missing\.txt does not exist.*Expected.*give its path"),
        (".", None, r"dataset\.calibration=.* is a folder.*Expected.*give its path"),
        ("latin.txt", "caf\u00e9 ".encode("latin-1"), r"latin\.txt is not UTF-8 \(byte 3.*Expected.*convert"),
        ("packed.gz", gzip.compress(b"text", mtime=0), r"packed\.gz is not UTF-8.*unpack"),
        ("latin.jsonl", '{"text": "\u00e9"}'.encode("latin-1"), r"latin\.jsonl is not UTF-8"),
        ("empty.txt", b" \n ", r"empty\.txt holds no text.*Expected.*give another"),
        ("empty.jsonl", b'{"text": ""}\n', r"empty\.jsonl holds no text"),
        (
            "bad.jsonl",
            b'{"text": "a"}\n{"text" "b"}\n',
            r"bad\.jsonl, line 2 is not JSON \(.* at column 9\)\. Expected",
        ),
        ("blank.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', r"blank\.jsonl, line 2 is not JSON"),
        ("array.json", b'[{"text": "a"}]', r"array\.json, line 1 is a list\. Expected one object a line"),
        ("field.jsonl", b'{"text": "a"}\n{"body": 1, "id": 2}', r"line 2 has no field 'text'\. Found: body, id\. Set"),
        ("null.jsonl", b'{"text": null}', r"line 1: field 'text' is NoneType\. Expected a string"),
        ("fake.parquet", b"text", r"fake\.parquet is not a parquet file"),
    ],
)
def test_a_file_that_cannot_serve_is_refused(
    tmp_path: Path, other: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        text_files(tmp_path / name, other).check()
    with pytest.raises(UserError, match=message.replace("calibration", "evaluation")):
        text_files(other, tmp_path / name).check()


def test_a_missing_parquet_column_lists_those_found(tmp_path: Path, other: Path) -> None:
    write_rows(tmp_path / "a.parquet", ROWS, field="body")
    with pytest.raises(
        UserError, match=r"a\.parquet, row 1 has no field 'text'\. Found: number, body\. Set dataset\.field"
    ):
        text_files(tmp_path / "a.parquet", other).check()


def test_an_unreadable_file_is_refused(tmp_path: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)  # permissions do not bind root, who may run the tests
    with pytest.raises(UserError, match=r"Permission denied.*Expected a readable file") as caught:
        text_files(other, other).calibration_text()
    assert isinstance(caught.value.__cause__, PermissionError)


def test_the_same_text_twice_is_refused(tmp_path: Path, other: Path) -> None:
    (tmp_path / "link.txt").symlink_to(other)
    (tmp_path / "copy.txt").write_bytes(other.read_bytes())
    for twin in (other, tmp_path / "link.txt", tmp_path / "copy.txt"):
        with pytest.raises(UserError, match=r"are the same text.*Give two different texts"):
            text_files(twin, other).check()


# --- hub --------------------------------------------------------------------------------------------------------------

COMMIT = "0123456789" * 4


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`datasets` leaves a lock file for whatever it reads, even a stream."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty local copy of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def hub_option(name: str, **overrides: Any) -> HubText:
    option = read_yaml(CONF / f"{name}.yaml")
    del option["_target_"]
    return HubText(**option | overrides)


def lay_out(source: HubText, root: Path) -> tuple[list[str], list[str]]:
    """The files of a hub repository, small, under `root`; returns the rows of the calibration and of the evaluation."""
    rows = [[f"{part} {i}\n" if i % 3 else "" for i in range(12)] for part in ("calibrate", "evaluate")]
    for file, part in zip((source.calibration, source.evaluation), rows, strict=True):
        write_rows(root / file, part, source.field)
    return rows[0], rows[1]


@pytest.mark.parametrize("name", ["wikitext2", "c4", "ptb"])
def test_a_local_folder_with_the_layout_of_the_hub_is_read(name: str, tmp_path: Path, offline: Path) -> None:
    source = hub_option(name, repo=str(tmp_path), calibration_documents=None, evaluation_documents=None)
    calibration, evaluation = lay_out(source, tmp_path)
    source.check()
    assert source.calibration_text() == source.separator.join(calibration)
    assert source.evaluation_text() == source.separator.join(evaluation)


@pytest.mark.parametrize("name", ["wikitext2", "c4", "ptb"])
def test_what_was_downloaded_is_read_offline(name: str, offline: Path) -> None:
    source = hub_option(name, streaming=False, calibration_documents=None, evaluation_documents=None)
    with pytest.raises(
        UserError, match=r"Cannot fetch .*Check the network, HF_HUB_OFFLINE.*dataset=text.*dataset=pydocs"
    ) as no:
        source.check()
    assert no.value.__cause__ is not None
    # The hub's own layout: a branch is a file that names a commit, a commit is a folder.
    repository = offline / f"datasets--{source.repo.replace('/', '--')}"
    reference = repository / "refs" / source.revision
    reference.parent.mkdir(parents=True)
    reference.write_text(COMMIT, encoding="utf-8")
    folder = COMMIT if source.revision.startswith("refs/") else source.revision
    _, evaluation = lay_out(source, repository / "snapshots" / folder)
    source.check()
    assert source.evaluation_text() == source.separator.join(evaluation)


@pytest.mark.parametrize("name", ["wikitext2", "c4", "ptb"])
def test_the_first_documents_are_a_prefix(name: str, tmp_path: Path, offline: Path) -> None:
    source = hub_option(name, repo=str(tmp_path), calibration_documents=5, evaluation_documents=12)
    calibration, evaluation = lay_out(source, tmp_path)
    assert source.calibration_text() == source.separator.join(calibration[:5])
    assert source.evaluation_text() == source.separator.join(evaluation)
    with pytest.raises(UserError, match=r"has 12 documents\. Expected 13; ask for fewer, or null"):
        replace(source, evaluation_documents=13).evaluation_text()


def test_hub_and_files_read_the_same_text(tmp_path: Path, offline: Path) -> None:
    hub = hub_option("wikitext2", repo=str(tmp_path))
    lay_out(hub, tmp_path)
    files = TextFiles(str(tmp_path / hub.calibration), str(tmp_path / hub.evaluation), hub.field, hub.separator)
    assert (hub.calibration_text(), hub.evaluation_text()) == (files.calibration_text(), files.evaluation_text())


def test_a_stream_is_refused_offline(offline: Path) -> None:
    with pytest.raises(
        UserError, match=r"HF_HUB_OFFLINE=1 forbids streaming.*dataset\.streaming=false.*dataset=pydocs"
    ):
        hub_option("c4").check()


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no file wikitext-2-raw-v1/train.*Expected the layout.*download"):
        hub_option("wikitext2", repo=str(tmp_path)).check()


@pytest.mark.parametrize("repo", ["/no/such/folder", "~/nothing", "./nothing", "wikitext", "a/b/c"])
def test_a_repository_that_cannot_be_one_is_refused(repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match=r"is not a folder here\. Expected one, or OWNER/NAME"):
        hub_option("wikitext2", repo=repo).check()


def test_a_check_online_asks_the_network_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("check() opened a connection"))
    for name in ("wikitext2", "c4", "ptb"):
        hub_option(name).check()


def test_the_same_file_twice_is_refused() -> None:
    with pytest.raises(UserError, match=r"are both f\.parquet.*Give two different files"):
        hub_option("wikitext2", calibration="f.parquet", evaluation="f.parquet").check()


@pytest.mark.parametrize("limit", ["calibration_documents", "evaluation_documents"])
def test_no_documents_are_refused(limit: str) -> None:
    with pytest.raises(UserError, match=rf"dataset\.{limit} is 0\. Expected at least 1, or null"):
        hub_option("c4", **{limit: 0}).check()


def test_a_broken_file_of_the_hub_is_named(tmp_path: Path) -> None:
    source = hub_option("ptb", repo=str(tmp_path))
    lay_out(source, tmp_path)
    (tmp_path / source.evaluation).write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"Cannot read .*0000\.parquet as parquet \(.*fetch it again") as caught:
        source.evaluation_text()
    assert caught.value.__cause__ is not None


def test_a_missing_hub_column_lists_those_found(tmp_path: Path) -> None:
    source = hub_option("ptb", repo=str(tmp_path))
    lay_out(source, tmp_path)
    with pytest.raises(UserError, match=r"row 1 has no field 'body'\. Found: number, sentence\. Set dataset\.field"):
        replace(source, field="body").evaluation_text()


# --- what a result pins -----------------------------------------------------------------------------------------------


def test_a_description_pins_both_texts(tmp_path: Path, other: Path) -> None:
    hub = hub_option("ptb", repo=str(tmp_path))
    lay_out(hub, tmp_path)
    files = text_files(tmp_path / hub.calibration, other, hub.field)
    sources: list[TextSource] = [PyDocs(), hub, files]
    for source in sources:
        described = source.describe()
        assert all(type(key) is type(value) is str for key, value in described.items())
        assert described["calibration_sha256"] == hashlib.sha256(source.calibration_text().encode()).hexdigest()
        assert described["evaluation_sha256"] == hashlib.sha256(source.evaluation_text().encode()).hexdigest()
    other.write_text("changed", encoding="utf-8")
    assert files.describe()["evaluation_sha256"] == hashlib.sha256(b"changed").hexdigest()


def test_a_description_tells_sources_apart(tmp_path: Path) -> None:
    hub = hub_option("ptb", repo=str(tmp_path))
    lay_out(hub, tmp_path)
    changed = [replace(hub, revision="main"), replace(hub, calibration_documents=3), replace(hub, separator="")]
    assert len({json.dumps(source.describe()) for source in (hub, *changed)}) == 4


# --- tokens -----------------------------------------------------------------------------------------------------------

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Words to numbers, behind a first token, as Llama's does."""
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["<s>", "<unk>", *WORDS])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.enable_truncation(4)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", model_max_length=8)


def test_tokenise_is_one_call_without_truncation(tokenizer: PreTrainedTokenizerFast) -> None:
    ids_N = tokenise(" ".join(WORDS * 5), tokenizer)
    assert ids_N.dtype == torch.int64
    assert ids_N.tolist() == [0, *list(range(2, 10)) * 5]


def test_tokenise_warns_of_nothing_and_silences_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(listener)
    try:
        tokenise(" ".join(WORDS * 5), tokenizer)
        assert heard == []
        tokenizer(" ".join(WORDS * 5))
        assert len(heard) == 1
    finally:
        logger.removeHandler(listener)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sample_is_a_function_of_the_generator() -> None:
    ids_N = torch.arange(1000)
    ids_BT = sample(ids_N, 8, 16, seeded(0))
    assert ids_BT.shape == (8, 16)
    assert torch.equal(ids_BT, sample(ids_N, 8, 16, seeded(0)))
    assert not torch.equal(ids_BT, sample(ids_N, 8, 16, seeded(1)))
    generator = seeded(0)
    assert not torch.equal(sample(ids_N, 8, 16, generator), sample(ids_N, 8, 16, generator))
    before = torch.get_rng_state()
    sample(ids_N, 8, 16, generator)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sample_is_consecutive_and_every_start_is_reached() -> None:
    ids_N = torch.arange(6)  # exactly 2 sequences of 3
    generator = seeded(0)
    drawn = [sample(ids_N, 2, 3, generator) for _ in range(100)]
    assert all(ids_BT.diff(dim=1).eq(1).all() for ids_BT in drawn)
    starts = torch.cat(drawn)[:, 0]
    assert starts.bincount().tolist() == pytest.approx([50] * 4, abs=25)  # 200 draws of 4 starts: 4 standard deviations
    assert sample(ids_N, 1, 6, generator).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_sample_does_not_alias_the_text() -> None:
    ids_N = torch.arange(6)
    sample(ids_N, 1, 6, seeded(0)).zero_()
    assert torch.equal(ids_N, torch.arange(6))


@pytest.mark.parametrize("length,seqlen,limit,found", [(12, 4, None, 3), (15, 4, None, 3), (15, 4, 2, 2), (4, 4, 1, 1)])
def test_windows_joined_are_a_prefix(length: int, seqlen: int, limit: int | None, found: int) -> None:
    ids_N = torch.arange(length)
    ids_BT = windows(ids_N, seqlen, limit)
    assert ids_BT.shape == (found, seqlen)
    assert torch.equal(ids_BT.flatten(), ids_N[: found * seqlen])


@pytest.mark.parametrize(
    "cut,message",
    [
        (
            lambda ids_N: sample(ids_N, 3, 4, seeded(0)),
            r"has 11 tokens\. Expected at least 3 sequences x 4 tokens = 12\. Ask",
        ),
        (lambda ids_N: sample(ids_N, 0, 4, seeded(0)), r"num_sequences is 0\. Expected at least 1"),
        (lambda ids_N: sample(ids_N, 2, 0, seeded(0)), r"seqlen is 0\. Expected at least 1"),
        (
            lambda ids_N: windows(ids_N, 12, None),
            r"has 11 tokens, which are 0 windows of 12\. Expected at least 1\. Ask",
        ),
        (lambda ids_N: windows(ids_N, 4, 3), r"has 11 tokens, which are 2 windows of 4\. Expected at least 3\. Ask"),
        (lambda ids_N: windows(ids_N, 4, 0), r"limit is 0\. Expected at least 1"),
        (lambda ids_N: windows(ids_N, 0, None), r"seqlen is 0\. Expected at least 1"),
    ],
)
def test_too_little_text_is_refused(cut: Callable[[torch.Tensor], torch.Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(torch.arange(11))

"""Texts of the user's own: a file is itself, a table is its rows, and one that cannot serve is refused by name."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from texts import ROWS, text_files, write_rows

from sparsity.core import UserError
from sparsity.datasets import TextFiles


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
        ("array.json", b'[{"text": "a"}]', r"array\.json, line 1 is a list\. Expected one object per line"),
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

"""Texts of the hub: read from a folder, a cache or a stream, and refused with what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from texts import hub_option, lay_out

from sparsity.core import UserError
from sparsity.datasets import TextFiles

pytestmark = pytest.mark.usefixtures("no_traces")

COMMIT = "0123456789" * 4


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, and an empty local copy of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


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
    with pytest.raises(UserError, match=rf"{limit}=0 is not valid: expected a whole number >= 1, .* or null"):
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

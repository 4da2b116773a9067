"""Text from a dataset repository on the Hugging Face hub. The user gives the repository, the revision and two files.

The options name files, not configurations and splits, because the hub stores files. `load_dataset(REPOSITORY, ...)` would first
compare what it loads with the repository's card, which fails for a single file of C4 (datasets issues 6746 and 7728), and it
refuses PTB, whose repository is a loading script. So `huggingface_hub` finds the file, and `datasets` reads it.

`repo` may also be a local folder with the repository's layout: a clone, or the result of `hf download`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sparsity.core import UserError
from sparsity.datasets.base import hashes
from sparsity.datasets.files import string_of
from sparsity.ranges import Count, checked

INSTEAD = "Or use local text: dataset=text dataset.calibration=FILE dataset.evaluation=FILE, or dataset=pydocs."


@dataclass(frozen=True)
@checked
class HubText:
    """A source that reads two files of one dataset repository."""

    repo: str  # OWNER/NAME, or a local folder with the same layout
    revision: str  # commit, tag or branch of the repository; a local folder has none
    calibration: str  # file in the repository: .parquet, .json, .jsonl; may end in .gz
    evaluation: str  # another file
    calibration_documents: Count | None  # the first rows of the file; None is all of them
    evaluation_documents: Count | None
    field: str  # the column that holds the text
    separator: str  # between rows
    streaming: bool  # True: read only these documents, over the network in each run. False: download and keep the file

    def check(self) -> None:
        if self.calibration == self.evaluation:
            raise UserError(
                f"dataset.calibration and dataset.evaluation are both {self.calibration}: perplexity would be measured "
                "on the calibration text. Give two different files."
            )
        from huggingface_hub.constants import is_offline_mode

        # Without the network it is cheap to check that the files exist.
        if Path(self.repo).expanduser().is_dir() or is_offline_mode():
            for file in (self.calibration, self.evaluation):
                _locate(self, file)
        elif self.repo.count("/") != 1 or self.repo.startswith(("/", "~", ".")):
            raise UserError(
                f"dataset.repo={self.repo} is not a folder here. Expected one, or OWNER/NAME of the hub; check it."
            )

    def files(self) -> list[Path]:
        folder = Path(self.repo).expanduser()
        return [folder / self.calibration, folder / self.evaluation] if folder.is_dir() else []

    def calibration_text(self) -> str:
        return _text(self, self.calibration, self.calibration_documents)

    def evaluation_text(self) -> str:
        return _text(self, self.evaluation, self.evaluation_documents)

    def describe(self) -> dict[str, str]:
        # A branch may move, so the hashes say which text was read.
        return {
            "name": "hub",
            "repo": self.repo,
            "revision": self.revision,
            "calibration": f"{self.calibration} ({self.calibration_documents or 'all'} documents)",
            "evaluation": f"{self.evaluation} ({self.evaluation_documents or 'all'} documents)",
            **hashes(self),
        }


def _locate(source: HubText, file: str) -> str:
    """The path of `file`, or its address if it is streamed. Downloads it unless it is local or streamed."""
    folder = Path(source.repo).expanduser()
    option = f"dataset.{'calibration' if file == source.calibration else 'evaluation'}={file}"
    if folder.is_dir():
        if not (folder / file).is_file():
            raise UserError(
                f"{option} is not there: the folder dataset.repo={source.repo} has no file {file}. Expected the layout of the "
                "hub's repository; download the file there."
            )
        return str(folder / file)

    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import is_offline_mode

    what = f"{option} of dataset.repo={source.repo} at {source.revision}"
    if source.streaming:
        if is_offline_mode():
            raise UserError(
                f"HF_HUB_OFFLINE=1 forbids streaming {what}. Expected a network: unset it. Or set "
                f"dataset.streaming=false where the file was downloaded before. {INSTEAD}"
            )
        return f"hf://datasets/{source.repo}@{quote(source.revision, safe='')}/{file}"
    try:
        return hf_hub_download(source.repo, file, repo_type="dataset", revision=source.revision)
    except Exception as error:  # the hub's errors have no common base class: OSError, ValueError, httpx.HTTPError
        raise UserError(
            f"Cannot fetch {what} ({type(error).__name__}). Expected it on the hub, or in its local copy when offline. "
            "Check the network, HF_HUB_OFFLINE and the names; dataset.repo may be a local folder with the same layout. "
            f"{INSTEAD}"
        ) from error


@lru_cache(maxsize=2)  # a run reads each text twice: to tokenise it, and to record its hash
def _text(source: HubText, file: str, documents: int | None) -> str:
    where = _locate(source, file)
    kind = "parquet" if file.endswith(".parquet") else "json"
    try:
        rows = _rows(kind, where, documents)
    except Exception as error:  # errors of network, compression and format have no common base class either
        raise UserError(
            f"Cannot read {where} as {kind} ({type(error).__name__}: {error}). Expected the file as the hub has it; "
            f"check the network, or fetch it again. {INSTEAD}"
        ) from error
    if len(rows) < (documents or 1):
        raise UserError(
            f"{where} has {len(rows)} documents. Expected {documents or 'at least 1'}; ask for fewer, or null for all."
        )
    return source.separator.join(
        string_of(row, source.field, f"{where}, row {i}") for i, row in enumerate(rows, start=1)
    )


def _rows(kind: str, where: str, documents: int | None) -> list[dict[str, Any]]:
    from datasets import load_dataset

    # Local files are streamed too: otherwise `datasets` first writes a copy of the whole file as an Arrow table.
    return list(islice(load_dataset(kind, data_files={"rows": where}, split="rows", streaming=True), documents))

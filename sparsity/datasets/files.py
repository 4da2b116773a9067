"""Text from local files. A text file is read whole; of a table (.jsonl, .json, .parquet) the rows of one column are joined."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsity.core import UserError
from sparsity.datasets.base import hashes
from sparsity.ranges import checked


@dataclass(frozen=True)
@checked
class TextFiles:
    """A source that reads two local files."""

    calibration: str  # file; `~` is the home folder
    evaluation: str  # another file
    field: str  # the column of a .jsonl, .json or .parquet file that holds the text; a text file has none
    separator: str  # between the rows of such a file

    def check(self) -> None:
        """Reads both files: that is cheap compared with loading a model, and finds a bad line 20,000 at once."""
        calibration, evaluation = self.files()
        for part, path in (("calibration", calibration), ("evaluation", evaluation)):
            if not path.is_file():
                got = "is a folder" if path.is_dir() else "does not exist"
                raise UserError(
                    f"dataset.{part}={path} {got}. Expected a text file, .jsonl or .parquet; give its path."
                )
        if self.calibration_text() == self.evaluation_text():
            raise UserError(
                f"dataset.calibration={calibration} and dataset.evaluation={evaluation} are the same text: perplexity "
                "would be measured on the calibration text. Give two different texts."
            )

    def files(self) -> list[Path]:
        return [Path(self.calibration).expanduser(), Path(self.evaluation).expanduser()]

    def calibration_text(self) -> str:
        return _read(self.files()[0], self.field, self.separator)

    def evaluation_text(self) -> str:
        return _read(self.files()[1], self.field, self.separator)

    def describe(self) -> dict[str, str]:
        return {"name": "text", "calibration": self.calibration, "evaluation": self.evaluation, **hashes(self)}


def _read(path: Path, field: str, separator: str) -> str:
    """The text of one file. Raises `UserError` if it is empty or cannot be read."""
    try:
        rows = ROWS[path.suffix](path, field) if path.suffix in ROWS else None
        text = separator.join(rows) if rows is not None else _decoded(path)
    except OSError as error:  # the message already names the file
        raise UserError(
            f"Cannot read a text: {error}. Expected a readable file; check its path and permissions."
        ) from error
    if not text.strip():
        raise UserError(f"{path} holds no text. Expected at least one sequence of tokens; give another file.")
    return text


def _decoded(path: Path) -> str:
    # Not read_text(): it translates \r\n to \n, which changes the tokens.
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}). Expected UTF-8 text, or .jsonl, .json, "
            ".parquet; convert the file, or unpack it if it is compressed."
        ) from error


def _json_rows(path: Path, field: str) -> list[str]:
    # Split only at \n: str.splitlines would also split at U+2028, which JSON allows inside a string.
    lines = _decoded(path).removesuffix("\n").split("\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where} is not JSON ({error.msg} at column {error.colno}). Expected one object per line; mend or "
                "delete the line."
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{where} is a {type(row).__name__}. Expected one object per line; write JSON lines, not one array."
            )
        rows.append(string_of(row, field, where))
    return rows


def _parquet_rows(path: Path, field: str) -> list[str]:
    import pyarrow as arrow  # type: ignore[import-untyped]
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    try:
        columns = parquet.read_schema(path).names
        # Only this column is read. If it is missing, `string_of` says so for the first row.
        rows = parquet.read_table(path, columns=[field]).to_pylist() if field in columns else [dict.fromkeys(columns)]
    except arrow.ArrowInvalid as error:
        raise UserError(
            f"{path} is not a parquet file ({error}). Expected one; give another file or mend its suffix."
        ) from error
    return [string_of(row, field, f"{path}, row {number}") for number, row in enumerate(rows, start=1)]


ROWS: dict[str, Callable[[Path, str], list[str]]] = {
    ".jsonl": _json_rows,
    ".json": _json_rows,
    ".parquet": _parquet_rows,
}


def string_of(row: dict[str, Any], field: str, where: str) -> str:
    """The text in one row of a table. Raises `UserError`, which begins with `where`, if the field is missing or no string."""
    if field not in row:
        raise UserError(
            f"{where} has no field {field!r}. Found: {', '.join(row) or 'nothing'}. Set dataset.field to one of them."
        )
    if not isinstance(row[field], str):
        raise UserError(
            f"{where}: field {field!r} is {type(row[field]).__name__}. Expected a string; mend the row, or set "
            "dataset.field."
        )
    return str(row[field])

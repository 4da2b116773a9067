"""Small text sources with the layout of the hub's repositories, and the options of conf/dataset."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow  # type: ignore[import-untyped]
import pyarrow.parquet  # type: ignore[import-untyped]
import yaml

import sparsity.datasets
from sparsity.datasets import HubText, TextFiles

CONF = Path(__file__).parents[2] / "conf" / "dataset"
ROWS = ["", " = Title = \n", "A line with \r\n inside,\u2028 a separator and ünïcode.", "the last"]


def option(name: str) -> tuple[type, dict[str, Any]]:
    """The class that conf/dataset/`name`.yaml names, and its arguments."""
    arguments: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    return getattr(sparsity.datasets, arguments.pop("_target_").removeprefix("sparsity.datasets.")), arguments


def hub_option(name: str, **overrides: Any) -> HubText:
    return HubText(**option(name)[1] | overrides)


def text_files(calibration: Path, evaluation: Path, field: str = "text", separator: str = "\n\n") -> TextFiles:
    return TextFiles(str(calibration), str(evaluation), field, separator)


def write_rows(path: Path, rows: list[str], field: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"number": list(range(len(rows))), field: rows}), path)
        return
    lines = "".join(json.dumps({field: row, "url": "u"}, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines, mtime=0) if path.suffix == ".gz" else lines)


def lay_out(source: HubText, root: Path) -> tuple[list[str], list[str]]:
    """The files of a hub repository, small, under `root`; returns the rows of the calibration and of the evaluation."""
    rows = [[f"{part} {i}\n" if i % 3 else "" for i in range(12)] for part in ("calibrate", "evaluate")]
    for file, part in zip((source.calibration, source.evaluation), rows, strict=True):
        write_rows(root / file, part, source.field)
    return rows[0], rows[1]

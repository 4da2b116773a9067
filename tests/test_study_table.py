"""The table of a study: seeds of one composition make a row, and columns that say nothing are left out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.table import main, table

ROOT = Path(__file__).parent.parent


def result(
    perplexity: float, seed: int, *words: str, method: str = "Wanda(scope='row')", before: float | None = None
) -> dict[str, Any]:
    return {
        "overrides": [*words, f"seed={seed}", "experiment=x"],
        "composition": {"method": method},
        "calibration": {"seed": seed},
        "perplexity": {"pruned": perplexity},
        "layers": {"error_before_mean": before, "relative_error_mean": before},
        "seconds": {"calibrate": 30.4, "prune": 5.2},
    }


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_the_seeds_of_a_composition_make_one_row():
    runs = [result(p, seed, "method=wanda", "sparsity=0.5") for seed, p in ((2, 73.0), (0, 71.0), (1, 72.0))]
    runs.append(result(60.0, 0, "method=sparsegpt", "sparsity=0.5"))
    head, _, wanda, sparsegpt = cells(table(runs))
    assert head[:3] == ["", "seeds", "perplexity"]
    assert wanda[:3] == ["method=wanda", "0, 1, 2", "72.00 ± 1.00 (71.00, 72.00, 73.00)"]
    assert sparsegpt[:3] == ["method=sparsegpt", "0", "60.00"]


def test_what_is_the_same_in_every_row_is_left_out():
    runs = [result(70.0, 0, "method=wanda", before=0.1), result(60.0, 0, "method=ria", before=0.1)]
    assert cells(table(runs))[0] == ["", "perplexity"]
    runs = [result(70.0, 0, "method=wanda", before=0.1), result(60.0, 0, "method=ria")]
    assert cells(table(runs))[0] == ["", "perplexity", "error before", "relative error"]


def test_an_option_that_the_method_does_not_read_makes_no_row():
    runs = [
        result(70.0, 0, "method=wanda", "tfidf=doc"),
        result(80.0, 0, "method=hybrid", "tfidf=doc", method="Route(... TfIdf(...))"),
        result(81.0, 0, "method=hybrid", "tfidf=topic", method="Route(... TfIdf(...))"),
    ]
    rows = cells(table(runs))[2:]
    assert [row[0] for row in rows] == ["method=wanda", "method=hybrid tfidf=doc", "method=hybrid tfidf=topic"]


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"no result\.json below"):
        main([str(tmp_path)])


def test_the_command_reads_a_folder(tmp_path):
    for seed in (0, 1):
        folder = tmp_path / "sweep" / str(seed)
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result(70.0 + seed, seed, "method=wanda")))
        rows = [f"m.{block}.{leaf},{block + seed + (leaf == 'up')}" for block in (0, 1) for leaf in ("up", "down")]
        (folder / "layers.csv").write_text("\n".join(["name,relative_error", *rows, "m.2.other,"]))

    def shown(*words: str) -> str:
        line = [sys.executable, "-m", "experiments.table", str(tmp_path), *words]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "70.50 ± 0.71 (70.00, 71.00)" in shown()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text(json.dumps(result(70.0, 0, "method=ria")))
    (tmp_path / "other" / "layers.csv").write_text("name,relative_error\nm.0.up,3\n")
    head, _, *rows = cells(shown("--layers"))
    assert head == ["", "up", "down"]
    assert sorted(rows) == [["method=ria", "3.0000", ""], ["method=wanda", "2.0000", "1.0000"]]

"""The notebook runs as it stands, from the first cell to the last, and shows what it says."""

from __future__ import annotations

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "experiments" / "library.ipynb"


@pytest.mark.slow
def test_the_notebook_loads_prunes_compares_and_plots(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs)
    perplexity = {
        label.strip(): float(value) for label, value in re.findall(r"^(.{16}) perplexity +([\d.]+)", said, flags=re.M)
    }
    assert perplexity.keys() == {"magnitude", "wanda", "sparsegpt", "wanda + optimal", "dense"}
    assert perplexity["dense"] < min(perplexity[label] for label in perplexity.keys() - {"dense"})
    assert max(perplexity[label] for label in perplexity.keys() - {"magnitude"}) < perplexity["magnitude"]
    assert (
        len(re.findall(r"nats, p = [\d.]+: (?:wanda|magnitude|sparsegpt|wanda \+ optimal|not decided)$", said, re.M))
        == 3
    )
    assert [output for output in outputs if "image/png" in output.get("data", {})]


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]

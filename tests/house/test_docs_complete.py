"""README and docs/ are complete: every option has a paragraph with its papers, every room a row, and code works as printed."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
import yaml
from checkpoints import tiny
from composing import CONF, OPTIONS
from problems import problem
from room_list import BETWEEN, PAGE, listed
from test_docs import GROUPS, README, ROOT, blocks, keys
from test_house import ROOMS

from sparsity.core import UserError
from sparsity.models import Decoder
from sparsity.patterns import NofM

# --- every option is described ----------------------------------------------------------------------------------------

DESCRIBED = {
    **dict.fromkeys(("method", "tfidf", "pattern", "allocation", "refine", "recover"), "docs/methods.md"),
    "corrector": "docs/correctors.md",
}


def paragraph(page: str, group: str, option: str) -> str:
    """What a page says under the heading of an option: `## group` with `### option` inside, or `## option` alone."""
    inside = re.split(rf"^## `{group}`.*\n", page, flags=re.MULTILINE)[-1]
    found = re.search(rf"^##+ `{re.escape(option)}`.*\n((?:(?!#).*\n)*)", inside, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("group", DESCRIBED)
def test_every_option_has_a_paragraph_with_its_papers(group: str) -> None:
    page = (ROOT / DESCRIBED[group]).read_text()
    for option in OPTIONS[group]:
        told = paragraph(page, group, option)
        assert len(told.split()) >= 8, f"{group}={option} has no paragraph in {DESCRIBED[group]}"
        papers = re.findall(r"arXiv \d+\.\d+", (CONF / group / f"{option}.yaml").read_text())
        assert not (missing := {*papers} - {*re.findall(r"arXiv \d+\.\d+", told)}), f"{group}={option}: {missing}"


def test_a_missing_paragraph_is_found() -> None:
    page = "## `method`: which\n\n### `wanda`\n\nIt scores. arXiv 1.\n\n### `ria`\n\n## `tfidf`: how\n\n### `doc`\n\nA document.\n"
    assert paragraph(page, "method", "wanda").split() == ["It", "scores.", "arXiv", "1."]
    assert paragraph(page, "method", "ria").split() == []
    assert paragraph(page, "method", "swaps") == ""
    assert paragraph(page, "tfidf", "doc").split() == ["A", "document."]


def test_every_option_and_value_is_in_the_tables() -> None:
    page = (ROOT / "docs/options.md").read_text()
    for group, names in GROUPS.items():
        section = re.search(rf"^## [^\n]*`{group}`.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        assert section, f"docs/options.md has no section on {group}"
        rows = "".join(line for line in section[0].splitlines() if line.startswith("|"))
        assert not (missing := [name for name in names if f"`{name}`" not in rows]), f"{group}: {missing}"
    values = {key for key in keys() if "." not in key} - {*GROUPS}
    assert not (missing := [name for name in values if f"`{name}`" not in page]), missing


def test_the_list_of_rooms_is_what_the_rooms_say() -> None:
    table = BETWEEN.search(PAGE.read_text())
    assert table, "docs/extending.md has no list of rooms"
    assert table[0] == listed(ROOMS), "write it again: python tests/help/room_list.py"


# --- what the pages show works as it is printed -----------------------------------------------------------------------


def test_the_method_of_ones_own() -> None:
    [own] = blocks(README.read_text(), "python")
    [option] = blocks(README.read_text(), "yaml")
    names: dict[str, Any] = {"__name__": __name__}
    exec(own, names)
    arguments = {key: value for key, value in yaml.safe_load(option).items() if key != "_target_"}
    p = problem()
    pruned = names["SoftWanda"](**arguments).prune(p.layer, NofM(2, 4), p.stats())
    assert (pruned.keep_OI.view(-1, 4).sum(1) == 2).all()


def test_the_evaluator_of_ones_own() -> None:
    own, _ = blocks((ROOT / "docs/extending.md").read_text(), "python")
    [option] = blocks((ROOT / "docs/extending.md").read_text(), "yaml")
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(own, "my_lab/entropy.py", "exec", dont_inherit=True), names)  # without this file's `annotations`
    [node] = yaml.safe_load(option).values()  # the evaluator's name comes first
    evaluator = names[node.pop("_target_").rpartition(".")[2]](**node)
    model, ids_N = Decoder(tiny().model), torch.arange(300) % 256
    evaluator.check(ids_N)
    measured = evaluator.compare(model, ids_N, evaluator.reference(model, ids_N))
    assert [(row["window"], row["dense"] == row["pruned"]) for row in measured.rows] == [(0, True), (1, True)]
    assert [(one.name, 0 < one.value < math.log(model.model.config.vocab_size)) for one in measured.measures] == [
        ("dense.entropy", True),
        ("pruned.entropy", True),
    ]
    with pytest.raises(UserError, match="expected 128"):
        evaluator.check(ids_N[:100])


def test_the_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    [_, notebook] = blocks((ROOT / "docs/extending.md").read_text(), "python")
    exec(notebook, {})
    assert capsys.readouterr().out.split()[1::2] == ["0.5"] * 14

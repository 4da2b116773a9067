"""What the terminal shows of a finished run, whatever its width: every evaluation, and no number cut."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from commands import MEASURED, SMALL, command
from rich.console import Console

from sparsity.measures import Measure, both
from sparsity.record import console
from sparsity.record.console import evaluations, lines
from sparsity.record.result import Result

LARGE = {
    "dense": "20438516.12", "pruned": "107341743.12", "rise": "+425.2%", "asked": "50.00%", "found": "50.00%",
    "layer error": "0.160", "held out": "0.170", "seconds": "31.6", "peak memory": "1.10 GiB",
}  # fmt: skip
FOUND = [
    *(
        one.under("evaluation.lm_eval")
        for one in both("quiz.acc", 0.75, 0.5, "fraction", "larger", errors={"dense": 0.125})
    ),
    Measure("evaluation.divergence.kl", 0.5, "nats", "smaller", digits=4),
    Measure("evaluation.mine.[red]score", 3.0),
    Measure("perplexity.pruned", 9.0, "", "smaller"),
]


def narrow(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True)


def shown(into: Console) -> str:
    return into.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_number_of_the_line_is_cut(width):
    into = narrow(width)
    lines(LARGE, into)
    written = shown(into).splitlines()
    assert all(len(line.rstrip()) <= width for line in written)
    rows = list(zip(written[::2], written[1::2], strict=True))
    assert len(rows) == (1 if width == 200 else len(rows))
    found = {}
    for head, row in rows:
        starts = [head.index(name) for name in LARGE if name in head]
        found |= {head[a:b].strip(): row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)}
    assert found == LARGE


def test_every_evaluation_is_a_line_of_a_table():
    into = narrow(80)
    evaluations(FOUND, into)
    assert [line.split() for line in shown(into).splitlines()] == [
        ["evaluation", "dense", "pruned", "better"],
        ["lm_eval", "quiz", "acc", "75.00%", "±", "12.50%", "50.00%", "larger"],
        ["divergence", "kl", "0.5000", "nats", "smaller"],
        ["mine", "[red]score", "3.00"],
    ]


def test_where_a_table_does_not_fit_every_number_has_two_lines():
    into = narrow(30)
    evaluations(FOUND, into)
    assert shown(into).splitlines() == [
        "lm_eval quiz acc, larger is better",
        "  dense 75.00% ± 12.50%, pruned 50.00%",
        "divergence kl, smaller is better",
        "  pruned 0.5000 nats",
        "mine [red]score",
        "  pruned 3.00",
    ]


def test_a_run_without_other_evaluations_has_no_such_table():
    into = narrow(80)
    evaluations([Measure("perplexity.pruned", 9.0)], into)
    assert shown(into) == ""


@pytest.mark.usefixtures("work")
def test_a_run_shows_all_its_evaluations(monkeypatch):
    monkeypatch.setattr(console.console, "width", 80)
    ended = command(*SMALL, *MEASURED, "evaluation=[perplexity,cost,generation,divergence]", "evaluation.cost.seqlen=8",
                    "evaluation.cost.repeats=1", "evaluation.generation.max_new_tokens=2", "hydra.run.dir=run",
                    "calibration.held_out=1", "layer_error=true")  # fmt: skip
    assert ended.status == 0, ended.err
    for name in ("cost bytes_packed", "cost tokens_per_second", "generation common_tokens", "divergence kl", "dense  ",
                 "held out", "dense, pruned: perplexity, 6 windows"):  # fmt: skip
        assert name in ended.out
    assert all(len(line) <= 80 for line in ended.out.splitlines() if line.startswith(("cost", "dense ", "generation")))


def test_a_result_that_says_little_is_shown(capsys):
    console.table(Result.from_json({"perplexity": {"pruned": 50.0}}), Path("x"))
    assert "50.00" in capsys.readouterr().out

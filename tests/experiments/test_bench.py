"""`make bench` on a layer too small to say anything: that it runs, for every corrector and method that changes weights."""

from __future__ import annotations

import sys

import pytest
import torch
from commands import refuse
from composing import OPTIONS, assembled

from experiments.bench import correctors as bench
from experiments.bench import methods as methods_bench
from experiments.bench import profiling, starting
from sparsity.models import SmolLM2


def test_every_corrector_is_timed():
    timed = {type(corrector) for corrector in bench.ROWS.values()}
    assert timed == {type(assembled(f"corrector={name}").corrector) for name in OPTIONS["corrector"] if name != "none"}


def test_the_problem_is_a_pruned_layer():
    layer, pruned, state = bench.problem(12, 32)
    assert pruned.keep_OI.sum(1).tolist() == [16] * 12
    assert (pruned.weight_OI != layer.weight_OI).sum() == 12 * 16
    assert state.gram_II.diagonal().min() > 0


def test_the_solve_alone_is_the_solve_of_optimal(monkeypatch):
    """It computes the same change: what is left out does not reach the weights, where the line search has nothing to hold back."""
    layer, pruned, state = bench.problem(12, 32)
    corrected = bench.OPTIMAL.correct(
        layer, pruned, bench.Stats(bench.SITE, {bench.Tap(bench.Gram()): bench.Folded(state)})
    )
    assert corrected.facts["line_search"] == 1
    torch.testing.assert_close(bench.solve(layer, pruned, state), corrected.weight_OI)


def test_the_table_has_a_line_for_each(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "12x32", "--repeats", "1"])
    bench.main()
    said = capsys.readouterr().out
    assert "12 x 32, a product takes" in said
    for name in (*bench.ROWS, "optimal, 10 steps, the solve alone"):
        (line,) = [line for line in said.splitlines() if line.strip().startswith(f"{name}  ")]
        assert float(line.split("(")[0].split()[-1]) > 0


def test_a_layer_is_outputs_x_inputs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "12"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "invalid shape value: '12'" in capsys.readouterr().err


def test_the_table_of_methods_has_a_line_for_each(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "12x32", "--repeats", "1"])
    methods_bench.main()
    said = capsys.readouterr().out
    assert "12 x 32, a product takes" in said
    for name in methods_bench.ROWS:
        (line,) = [line for line in said.splitlines() if line.strip().startswith(f"{name}  ")]
        assert float(line.split("(")[0].split()[-1]) > 0


def test_the_table_of_starting_compares_with_torch_and_names_a_missed_goal():
    rows = {name: starting.Row(()) for name in (starting.TORCH, "alone")}
    rows |= {"quick": starting.Row((), seconds=0.7), "slow": starting.Row((), ratio=1.4)}
    found = {starting.TORCH: 2.0, "alone": 5.0, "quick": 0.5, "slow": 3.0}
    _, torch_line, *lines = (line.split() for line in starting.table(found, rows))
    assert torch_line == ["import", "torch", "2.00", "1.00"]
    assert lines[0] == ["alone", "5.00", "2.50"]
    assert lines[1] == ["quick", "0.50", "0.25", "0.7", "s"]
    assert lines[2] == ["slow", "3.00", "1.50", "1.4", "x", "MISSED"]


def test_starting_counts_the_seconds_of_a_commands_children(tmp_path):
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    inside = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    assert 0.3 <= starting.cpu_seconds(starting.Row((sys.executable, "-c", inside)), tmp_path) < 3
    with pytest.raises(SystemExit, match="no such thing"):
        starting.cpu_seconds(starting.Row((sys.executable, "-c", "raise RuntimeError('no such thing')")), tmp_path)


def test_a_bench_without_its_text_is_told_which_files_it_reads(monkeypatch, work):
    """Before a model is loaded."""
    monkeypatch.setattr(SmolLM2, "load", refuse)
    monkeypatch.setattr(sys, "argv", ["bench"])
    with pytest.raises(SystemExit, match=r"^error: (?s:.*)WIKITEXT2_RAW(?s:.*)dataset=pydocs"):
        profiling.main()
    monkeypatch.setattr(sys, "argv", ["bench", "dataset=pydoc"])
    with pytest.raises(SystemExit, match=r"^error: (?s:.*)pydocs"):
        profiling.main()

"""make bench-start: CPU seconds until a command shows something, beside `import torch` in the same minute.

    python -m experiments.bench.starting --repeats 9

    help      sparsity-lab --help; goal: at most 0.7 CPU seconds
    TAB       what Hydra's completion asks for after `method=`; the same goal
    finished  a run of model=tiny that finished earlier shows its result; goal: at most 1.4 times `import torch`
    plan      plan=true model=tiny; goal: at most 2 times
    llama     `from transformers import LlamaForCausalLM`: what a plan and a run cannot do without

User and system seconds of the process and of its children. The commands take turns, so that all see the same machine: medians of
several rounds. CPU seconds and their ratios say something on a machine at work too; a table to be quoted needs an idle one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TORCH = "import torch"
PROGRAM = (sys.executable, "-m", "sparsity")
RUN = ("model=tiny", "method=wanda", "tracker=none", "evaluation.perplexity.windows=2", "calibration.num_sequences=2")


class Row(NamedTuple):
    """A command to measure, and its goals."""

    words: Sequence[str]
    variables: Mapping[str, str] = {}
    seconds: float | None = None  # the largest CPU time
    ratio: float | None = None  # the largest ratio to `import torch`


ROWS = {
    TORCH: Row((sys.executable, "-c", TORCH)),
    "help": Row((*PROGRAM, "--help"), seconds=0.7),
    "TAB": Row((*PROGRAM, "-sc", "query=bash"), {"COMP_LINE": "sparsity-lab method=", "COMP_POINT": "20"}, seconds=0.7),
    "finished": Row((*PROGRAM, *RUN), ratio=1.4),
    "plan": Row((*PROGRAM, *RUN, "plan=true"), ratio=2.0),
    "llama": Row((sys.executable, "-c", "from transformers import LlamaForCausalLM")),
}


def cpu_seconds(row: Row, folder: Path) -> float:
    """User and system seconds of one command, its children included. Exits with what the command said if it fails."""
    environment = {
        **os.environ, **row.variables, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "SPARSITY_CACHE": str(folder / "cache"),
    }  # fmt: skip
    before = os.times()
    done = subprocess.run(row.words, cwd=folder, env=environment, capture_output=True, text=True)
    after = os.times()
    if done.returncode:
        sys.exit(f"{' '.join(row.words)}\n{done.stdout}{done.stderr}")
    return after.children_user - before.children_user + after.children_system - before.children_system


def measured(rows: Mapping[str, Row], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each row, after one round that is not counted: it finishes the run and fills the disk's cache."""
    with tempfile.TemporaryDirectory() as name:
        rounds = [{label: cpu_seconds(row, Path(name)) for label, row in rows.items()} for _ in range(repeats + 1)]
    return {label: statistics.median(each[label] for each in rounds[1:]) for label in rows}


def table(found: Mapping[str, float], rows: Mapping[str, Row]) -> list[str]:
    """A line for each row: CPU seconds, the ratio to `import torch`, and whether its goal was met."""
    lines = [f"{'':14}{'CPU s':>7}{'ratio':>7}  goal"]
    for label, seconds in found.items():
        ratio, row = seconds / found[TORCH], rows[label]
        goal, met = "", True
        if row.seconds is not None:
            goal, met = f"{row.seconds:.1f} s", seconds <= row.seconds
        if row.ratio is not None:
            goal, met = f"{row.ratio:.1f} x", ratio <= row.ratio
        lines.append(f"{label:14}{seconds:7.2f}{ratio:7.2f}  {goal}{'' if met else ' MISSED'}".rstrip())
    return lines


def main() -> None:
    """Measure all rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="rounds that are counted")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print("\n".join(table(measured(ROWS, options.repeats), ROWS)))
    print(f"load average at the start: {load:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

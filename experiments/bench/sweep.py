"""make bench-sweep: the time of a grid whose points share one calibration. Needs an idle machine and 15 minutes.

    T1    load + calibrate + prune of a single point without the cache (wanda, corrector=none, 50 %)
    S     the sum of the prune stages of all points
    cold  the whole command over 12 points with an empty cache, including imports; goal: <= 2 T1 + S
    warm  the same command again, which computes every point again; goal: no block is run, <= S + 3 s per point

4 correctors x 3 sparsities after Wanda, dense propagation, SmolLM2-135M, 16 x 512 tokens, no evaluation. The masks of every point
are compared with those of a run without the cache. Exits with 1 if a mask differs or the warm run has run a block; a missed goal
is only printed.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GRID = ("corrector=none,greedy,hessian,optimal", "sparsity=0.4,0.5,0.6")
COMMON = (
    "model=smollm2", "method=wanda", "calibration.propagate=dense", "evaluation=[]", "tracker=none", "name=bench_sweep",
)  # fmt: skip
POINTS = 12


def timed(*words: str, cache: Path) -> float:
    """The seconds of a run with these options."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *words, *COMMON],
        env={**os.environ, "SPARSITY_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - start


def results(sweep: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The result of each point, by corrector and sparsity."""
    with (sweep / "sweep.csv").open() as file:
        return {
            (row["corrector"], row["sparsity"]): json.loads((Path(row["folder"]) / "result.json").read_text())
            for row in csv.DictReader(file)
        }


def pruned(found: dict[tuple[str, str], dict[str, Any]]) -> float:
    """The sum of the prune stages of all points, in seconds."""
    return sum(float(result["seconds"]["prune"]) for result in found.values())


def main() -> int:
    """Run the command. Returns the exit status."""
    with tempfile.TemporaryDirectory(dir=ROOT / "outputs") as name:
        folder = Path(name)
        cache = folder / "cache"
        timed(
            "corrector=none", "sparsity=0.5", "plan=true", f"hydra.run.dir={folder / 'plan'}", cache=cache
        )  # builds the model
        timed(
            "corrector=none", "sparsity=0.5", "cache.statistics=false", f"hydra.run.dir={folder / 'one'}", cache=cache
        )
        seconds = json.loads((folder / "one" / "result.json").read_text())["seconds"]
        one = seconds["load"] + seconds["calibrate"] + seconds["prune"]
        sweeps = {}
        for which, more in (("cold", ()), ("warm", ()), ("without", ("cache.statistics=false",))):
            into = folder / which
            wall = timed("-m", *GRID, *more, f"hydra.sweep.dir={into}", cache=cache)
            sweeps[which] = wall, results(into)
        forwards = {
            which: sum(result["calibration"]["block_forwards"] for result in found.values())
            for which, (_, found) in sweeps.items()
        }
        cold, warm = sweeps["cold"], sweeps["warm"]
        differ = [
            f"{which} {' '.join(point)}"
            for which in ("cold", "warm")
            for point, result in sweeps[which][1].items()
            if result["mask_sha256"] != sweeps["without"][1][point]["mask_sha256"]
        ]
        goals = {"cold": 2 * one + pruned(cold[1]), "warm": pruned(warm[1]) + 3 * POINTS}
        print(f"T1 {one:.1f} s ({', '.join(f'{stage} {spent:.1f}' for stage, spent in seconds.items())})")
        for which, (wall, found) in sweeps.items():
            goal = (
                f", goal {goals[which]:.1f} s: {'met' if wall <= goals[which] else 'MISSED'}" if which in goals else ""
            )
            print(f"{which:8} {wall:6.1f} s, S {pruned(found):.1f} s, {forwards[which]} blocks run x batches{goal}")
        print(f"masks: {2 * POINTS - len(differ)} of {2 * POINTS} as without the cache {differ or ''}")
        return 1 if differ or forwards["warm"] or min(len(found) for _, found in sweeps.values()) < POINTS else 0


if __name__ == "__main__":
    sys.exit(main())

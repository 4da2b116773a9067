"""Break the code one line at a time; each break must turn a test red. A test suite that cannot fail proves nothing.

    make mutants            or, for some of them:  python tests/mutants/run.py sweep perplexity

Each mutant is a line of a file, what it becomes, and the tests that must notice. They run in copies of this checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blocks import BLOCKS
from explaining import EXPLAINING
from general import GENERAL
from held_out import HELD_OUT
from keys import KEYS
from mutant import Mutant
from processes import PROCESSES
from ranges import RANGED
from result import RESULTS
from resuming import RESUMING
from shortcuts import SHORTCUTS
from starting import STARTING
from streaming import STREAMING
from successors import SUCCESSORS

ROOT = Path(__file__).parents[2]
COPIED = (
    "sparsity",
    "conf",
    "tests",
    "experiments",
    "docs",
    "run.py",
    "pyproject.toml",
    "Makefile",
    "README.md",
    "CHANGELOG.md",
)

MUTANTS = (
    *GENERAL,
    *SUCCESSORS,
    *BLOCKS,
    *PROCESSES,
    *SHORTCUTS,
    *STREAMING,
    *HELD_OUT,
    *RESUMING,
    *RESULTS,
    *STARTING,
    *KEYS,
    *RANGED,
    *EXPLAINING,
)


def copied(into: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, into / name)
    return into


def tests_pass(checkout: Path, *tests: str) -> bool:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not cuda",
        *tests,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False).returncode == 0


def survives(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        checkout = copied(Path(folder))
        path = checkout / mutant.file
        source = path.read_text()
        found = source.count(mutant.line)
        if found != 1:
            raise SystemExit(
                f"{mutant.name}: {mutant.line!r} occurs {found} times in {mutant.file}: expected once. Mend the mutant"
            )
        path.write_text(source.replace(mutant.line, mutant.becomes))
        return tests_pass(checkout, mutant.tests)


def main(words: list[str]) -> None:
    if unknown := [word for word in words if not any(word in m.name for m in MUTANTS)]:
        raise SystemExit(f"{__doc__}\n{' '.join(unknown)}: no mutant's name holds it. Expected part of one")
    mutants = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        if not tests_pass(copied(Path(folder)), *sorted({m.tests for m in mutants})):
            raise SystemExit("the tests are red without any mutant: mend that first")
    survivors = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
            print(f"{'SURVIVED' if survived else 'killed':9} {mutant.name} ({mutant.file})", flush=True)
            survivors += [mutant.name] * survived
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed")
    if survivors:
        raise SystemExit("survivors: " + ", ".join(survivors))


if __name__ == "__main__":
    main(sys.argv[1:])

"""The words that started this process, and that start it again. A run's record and the help show them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

COMMAND = "sparsity-lab"  # the command that `pip install` puts on the PATH


def started(processes: int = 1) -> list[str]:
    """The words of the command line before the options, for this number of processes.

    ["python", "run.py"], ["sparsity-lab"] or ["python", "-m", "sparsity"]; for several processes ["torchrun",
    "--nproc-per-node=2", "run.py"], or "-m", "sparsity" instead of run.py. A `sparsity-lab` that is not on the PATH is named by
    its path.
    """
    script = Path(sys.argv[0])
    installed = script.stem == COMMAND
    module = installed or script == Path(__file__).parents[1] / "__main__.py"
    words = ["-m", "sparsity"] if module else [sys.argv[0]]
    if processes > 1:
        return ["torchrun", f"--nproc-per-node={processes}", *words]
    if installed:
        found = shutil.which(COMMAND)
        return [COMMAND if found and Path(found).resolve() == script.resolve() else str(script)]
    return [Path(sys.executable).name, *words]

"""How this process was started, in words that start it again: a run's record and the help say the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

COMMAND = "sparsity-lab"  # what `pip install` puts on the PATH


def started(processes: int = 1) -> list[str]:
    """The words of the command line in front of the options, for this many processes.

    ["python", "run.py"], ["sparsity-lab"] or ["python", "-m", "sparsity"]; ["torchrun", "--nproc-per-node=2", "run.py"], or
    "-m", "sparsity" in the place of run.py. A `sparsity-lab` that is not the one on the PATH is named by its path.
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

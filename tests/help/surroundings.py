"""The environment of all tests and of whatever they start, the same whoever runs them. Importing this module sets it.

`conftest` imports it first: torch, Hugging Face's libraries and rich read some of these variables when they are imported. What a
shell, a scheduler or a user's habit has set is taken away; a test that wants a variable sets it.
"""

from __future__ import annotations

import locale
import os
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREFIXES = (
    "SPARSITY_", "HYDRA_",  # this program and its options
    "WANDB_", "TRACKIO_", "GRADIO_", "HF_", "HUGGING", "TRANSFORMERS_", "DATASETS_",  # trackers and the hub
    "OMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH_", "THP_",  # threads and memory, and what torchrun says
    "RAY_", "SLURM_", "SBATCH_",  # launchers
    "LC_", "LANG", "PYTHON", "GIT_", "COMP_",  # languages, the interpreter, a commit's hook, a completion
)  # fmt: skip
NAMES = {
    "WIKITEXT2_RAW", "TOKENIZERS_PARALLELISM", "DISABLE_MULTIPROC", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
    "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE",
    "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "JUPYTER_COLUMNS", "JUPYTER_LINES",
}  # fmt: skip
ALWAYS = {
    "PYTHONPATH": str(ROOT),  # this checkout, whatever is installed
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # sums in one order; two workers of two threads each are slower than this on two cores
    "TERM": "dumb",
    "LC_ALL": "C.UTF-8",
}


def known(environment: dict[str, str]) -> dict[str, str]:
    """The environment with everything taken away that a test could depend on, and `ALWAYS` set."""
    kept = {name: value for name, value in environment.items() if not name.startswith(PREFIXES) and name not in NAMES}
    return kept | ALWAYS


def _set() -> None:
    wanted = known(dict(os.environ))
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)
    with suppress(locale.Error):  # this process has read LC_ALL already
        locale.setlocale(locale.LC_ALL, ALWAYS["LC_ALL"])


_set()

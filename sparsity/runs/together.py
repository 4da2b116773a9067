"""The rank of this process under torchrun, and the changes to other processes than the first. Light: it does not import torch.

Only the first process writes the run's folder, informs trackers and prints. The others print only an error that happens in them
alone.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

FOLDER = "hydra.run.dir="


def rank() -> int:
    """The rank of this process, from 0."""
    return _said("RANK", 0)


def size() -> int:
    """The number of processes; 1 without torchrun."""
    return _said("WORLD_SIZE", 1)


def local() -> int | None:
    """The number of this process on its machine; None if it is the only one."""
    return _said("LOCAL_RANK", 0) if size() > 1 else None


def _said(name: str, alone: int) -> int:
    """The value of a variable of torchrun; `alone` without torchrun, because schedulers set some of these variables too."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def hush() -> None:
    """Silence this process. For all but the first."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for good)
    logging.disable()
    warnings.simplefilter("ignore")


def elsewhere(arguments: Sequence[str]) -> list[str]:
    """The arguments with "." as the run's folder, because Hydra would make another folder for each process."""
    words = [word for word in arguments if not word.startswith(FOLDER)]
    options = [i for i, word in enumerate(words) if "=" in word and not word.startswith("-")]
    # next to the other overrides: argparse needs them in one group
    words.insert(options[0] if options else len(words), f"{FOLDER}.")
    return words

"""What torchrun says of this process, and what follows from it at the door. Light: --help does not wait for torch.

The first process is the run: its folder, its trackers, what is shown. The others write nothing and say nothing, but an error that
is theirs alone.
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
    """Of this process, from 0."""
    return _said("RANK", 0)


def size() -> int:
    """How many processes there are; 1 without torchrun."""
    return _said("WORLD_SIZE", 1)


def local() -> int | None:
    """The number of this process on its machine; None if it is the only one."""
    return _said("LOCAL_RANK", 0) if size() > 1 else None


def _said(name: str, alone: int) -> int:
    """Schedulers set some of these variables as well: they count where torchrun did."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone


def hush() -> None:
    """For all but the first process."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (for good)
    logging.disable()
    warnings.simplefilter("ignore")


def elsewhere(arguments: Sequence[str]) -> list[str]:
    """The same command with a folder that is there in the place of the run's: Hydra would make one for each process."""
    words = [word for word in arguments if not word.startswith(FOLDER)]
    options = [i for i, word in enumerate(words) if "=" in word and not word.startswith("-")]
    # beside the others: argparse wants them in one run
    words.insert(options[0] if options else len(words), f"{FOLDER}.")
    return words

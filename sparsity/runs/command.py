"""The program behind `sparsity-lab`, `python run.py` and `python -m sparsity`: a run, or one of the commands beside it.

Light: --help, completion and the commands import modules only when they are called, because torch alone takes a second.
"""

from __future__ import annotations

import gc
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..record.started import COMMAND, started
from ..user_error import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

PACKAGE = Path(__file__).parents[1]


def configuration() -> Path:
    """The folder of the YAML files: inside an installed package, or beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def run() -> None:
    """Run the command line with Hydra: one run, or all points of a sweep."""
    if f"{__package__}.launch" not in sys.modules:
        gc.disable()  # until all modules are loaded: a tenth of the start-up time would go into collecting garbage
    import hydra
    from omegaconf import OmegaConf

    from .errors import explained

    OmegaConf.register_new_resolver("started", lambda: shlex.join(started()), replace=True)  # for conf/hydra/help
    conf = configuration()
    explained(hydra.main(version_base="1.3", config_path=str(conf), config_name="config")(job), conf, COMMANDS)


def job(config: DictConfig) -> float | None:
    """Do one run and return its objective. Launchers import this function by its name in the processes that they start."""
    from .launch import job

    if not gc.isenabled():  # see `run`
        gc.freeze()
        gc.enable()
    return job(config)


def report(words: Sequence[str]) -> int:
    """compare finished runs on one page"""
    from ..report.build import main

    return main(words, _called("report"))


def cache(words: Sequence[str]) -> int:
    """what is kept between runs: list, verify, prune, clear"""
    from ..cache.__main__ import main

    return main(words, _called("cache"))


def tasks(words: Sequence[str]) -> int:
    """write task files for lm-eval over data on this machine"""
    from .tasks import main

    return main(words, _called("tasks"))


def dashboard(words: Sequence[str]) -> int:
    """show all tracked runs in the browser"""
    from ..tracking.dashboard import main

    return main(words, _called("dashboard"))


def explain(words: Sequence[str]) -> int:
    """explain a group, an option or a value: help method, help method=pursuit, help calibration"""
    from ..options.help import explain

    try:
        print(explain(words, configuration()))
    except UserError as error:
        return _refused(str(error))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "report": report,
    "cache": cache,
    "tasks": tasks,
    "dashboard": dashboard,
    "help": explain,
}


def main() -> int:
    """Run the program. Returns the exit status of the process."""
    words = sys.argv[1:]
    first = words[0] if words else ""
    if first in COMMANDS:
        return COMMANDS[first](words[1:])
    if first == "--version":
        print(COMMAND, _version())
        return 0
    run()
    return 0


def _called(name: str) -> str:
    """The words that start this command, for its help: "python run.py report"."""
    return f"{shlex.join(started())} {name}"


def _version() -> str:
    try:
        return version("sparsity-lab")
    except PackageNotFoundError:
        return "of a checkout that is not installed"


def _refused(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1

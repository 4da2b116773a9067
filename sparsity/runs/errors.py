"""A user's mistake is one message, never a traceback; anything else is a defect and keeps its traceback.

Hydra's own complaints about options are completed here: it lists the options of a group, but not the keys of a configuration.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from ..options.mistakes import MISTAKES, alternatives
from ..user_error import UserError
from . import sweeps, together

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the disk


class Mistake(BaseException):
    """A user's mistake inside a run. No `Exception`: Hydra would print all overrides in front of its message."""


class PointFailed(Exception):
    """A point of a sweep that failed, and was reported when it did. The other points are run all the same."""


def explained(main: Callable[[], Any], conf: Path) -> None:
    """Run `main`; end with status 1 and one message after a user's mistake, with 130 after Ctrl-C."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra hands errors on instead of printing them
    sys.argv[1:] = _flag_first(sys.argv[1:])
    if together.size() > 1 and sys.argv[1:2] in (["-m"], ["--multirun"]):
        _end_all(
            "error: torchrun starts the processes of one run, got -m: expected one point. Start each by a torchrun of its own"
        )
    if together.rank():
        together.hush()
        sys.argv[1:] = together.elsewhere(sys.argv[1:])
    try:
        main()
        _tell()
    except KeyboardInterrupt:
        _tell()
        _end("interrupted: the same command goes on behind the last block that was finished", 130)
    except PointFailed:
        _tell()
        _end("error: not every point of the sweep finished, see above. The same command runs only those again", 1)
    except Mistake as error:
        _end(f"error: {describe(error, conf)}", 1)
    except MISTAKES as error:
        _end_all(f"error: {describe(error, conf)}")
    except OSError as error:
        if _in_job(error):
            raise
        option = "hydra.sweep.dir" if sys.argv[1:2] in (["-m"], ["--multirun"]) else "hydra.run.dir"
        _end_all(f"error: {error.filename} cannot be made ({error.strerror}): choose another {option}")


def hand_on(error: Exception, point: int | None) -> None:
    """Raise what passes Hydra unchanged; return if `error` does. A point of a sweep, by its number, is reported at once."""
    if isinstance(error, OSError) and error.errno in FULL:
        where = error.filename or "a file of this run"
        error = UserError(
            f"{where} cannot be written ({error.strerror}). Free some space: the same command goes on behind the last block"
        )
    mistake = isinstance(error, MISTAKES)
    if point is not None:
        told = f"error: {describe(error)}" if mistake else "".join(traceback.format_exception(error)).rstrip()
        sys.stdout.flush()
        print(f"#{point} {told}", file=sys.stderr, flush=True)
        raise PointFailed(f"#{point}") from error
    if mistake:
        raise Mistake(describe(error)) from error


def describe(error: BaseException, conf: Path | None = None) -> str:
    """Hydra's message without its search path, and for an unknown key the keys that exist."""
    text = re.sub(r"\n\s*(Config search path:.*|object_type=\S*)", "", str(error), flags=re.DOTALL)
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and cause is not None and str(cause).split("\n")[0] not in text:
        text += "\n" + str(cause).split("\n")[0]
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown and conf:
        return f"There is no option {unknown.group(1)}.{_suggest(unknown.group(1), conf)}"
    listed = re.search(r"Could not load '([^/']+)/", text)  # an entry of a list: Hydra does not say what there is
    if listed and conf:
        options = sorted(file.stem for file in (conf / listed.group(1)).glob("*.yaml"))
        text += f"\nAvailable options in '{listed.group(1)}': {', '.join(options)}"
    return text.strip()


def _suggest(key: str, conf: Path) -> str:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        keys = list(_keys(OmegaConf.to_container(_chosen(conf))))
    return alternatives(key, keys)


def _chosen(conf: Path) -> DictConfig:
    """The configuration with the groups' options that the command chose, and nothing else of it."""
    groups = {folder.name for folder in conf.iterdir() if folder.is_dir()}
    chosen = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in groups]
    try:
        return compose("config", overrides=chosen)
    except HydraException:  # several values, or an option that lies elsewhere: the defaults will do
        return compose("config")


def _keys(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if not str(key).startswith("_"):  # _target_
            yield name
        if isinstance(value, dict):
            yield from _keys(value, name)


def _flag_first(arguments: list[str]) -> list[str]:
    """-m in front: argparse refuses it between two overrides."""
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


def _in_job(error: BaseException) -> bool:
    """Was the error raised by a run, rather than by Hydra when it made the run's folder?"""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == f"{__package__}.launch" for frame in frames)


def _tell() -> None:
    """What became of a sweep, if this was one."""
    for line in sweeps.told():
        print(line, flush=True)


def _end_all(message: str) -> None:
    """Before a run has begun: all processes see the same mistake, and the first one says so."""
    if together.rank():
        sys.exit(1)
    _end(message, 1)


def _end(message: str, status: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(status)

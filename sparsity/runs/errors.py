"""Messages for errors: a user's mistake is one message without a traceback; any other error is a defect and keeps its traceback.

Mistakes in the words of the command line are reported before Hydra reads them. Hydra's own messages about options are completed
here: they list the options of a group, but not the keys of a configuration.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf

from ..options.help import explain
from ..options.mistakes import MISTAKES, alternatives, next_step, no_option
from ..options.written import Written
from ..user_error import UserError
from . import sweeps, together
from .typed import arranged, check

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk or a quota is full


class Mistake(BaseException):
    """A user's mistake inside a run. It is not an `Exception`, because Hydra would print all overrides before its message."""


class PointFailed(Exception):
    """The failure of a sweep's point, which was reported when it happened. The other points still run."""


def explained(main: Callable[[], Any], conf: Path, commands: Collection[str] = ()) -> None:
    """Run `main`. Exit with status 1 and one message after a user's mistake, with status 130 after Ctrl-C.

    `commands`: the first words that start something other than a run.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises errors instead of printing them
    try:
        flags, words = arranged(sys.argv[1:], conf)
        sys.argv[1:] = [*flags, *words]
        if {"-h", "--help"} & {*flags} and (asked := [word for word in words if "=" not in word]):  # --help method
            print(explain(asked, conf))
            return
        if together.size() > 1 and {"-m", "--multirun"} & {*flags}:
            raise UserError(
                "torchrun starts the processes of one run, got -m: expected one point. Start each by a torchrun of its own"
            )
        check(flags, words, conf, commands)
        if together.rank():
            together.hush()
            sys.argv[1:] = together.elsewhere(sys.argv[1:])
        main()
        _tell()
    except KeyboardInterrupt:
        _tell()
        _end("interrupted: the same command resumes after the last finished block", 130)
    except PointFailed:
        _tell()
        _end("error: not every point of the sweep finished, see above. The same command runs only those again", 1)
    except Mistake as error:
        _end(f"error: {error}", 1)
    except MISTAKES as error:
        _end_all(f"error: {describe(error, conf)}")
    except OSError as error:
        if _in_job(error):
            raise
        option = "hydra.sweep.dir" if {"-m", "--multirun"} & {*sys.argv[1:]} else "hydra.run.dir"
        _end_all(f"error: {error.filename} cannot be made ({error.strerror}): choose another {option}")


def hand_on(error: Exception, point: int | None) -> None:
    """Raise `error` in a form that Hydra does not change; return if `error` is one already.

    `point`: the number of a sweep's point, whose error is reported at once; None for a single run.
    """
    if isinstance(error, OSError) and error.errno in FULL:
        where = error.filename or "a file of this run"
        error = UserError(
            f"{where} cannot be written ({error.strerror}). Free some space: the same command resumes after the last finished block"
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
    """The message of an error, without Hydra's search path, with the next step, and with the existing names for an unknown one."""
    text = re.sub(r"\n\s*(Config search path:.*|object_type=\S*)", "", str(error), flags=re.DOTALL)
    cause = error.__cause__
    if isinstance(error, ConfigCompositionException) and cause is not None and str(cause).split("\n")[0] not in text:
        text += "\n" + str(cause).split("\n")[0]
    if "override_grammar" in text:
        return _unreadable(text)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown and conf:
        return f"There is no option {unknown.group(1)}.{_suggest(unknown.group(1), conf)}"
    absent = re.search(r"Could not (?:find|load) '((?:hydra/)?[^/']+)/([^']*)'", text)  # an option of a group
    if absent and conf:
        group, option = absent.groups()
        options = re.findall(r"\n\t(\S+)", text) or [file.stem for file in sorted((conf / group).glob("*.yaml"))]
        where = re.match(r"In '(?!config'|hydra/config')([^']+)': ", text)  # the name of a file, not the command line
        return f"{f'In {where.group(1)}: ' if where else ''}{no_option(group, option, options)}"
    return (text + next_step(text)).strip()


def _unreadable(text: str) -> str:
    """The message for a word that Hydra cannot parse: which one it is, and the likely reason."""
    for word in sys.argv[1:]:
        try:
            OverridesParser.create().parse_override(word)
        except HydraException:
            if (found := re.fullmatch(r"([^=]+)=~(/.*)?", word)) is not None:
                return f"{word} cannot be read: ~ is not replaced behind =. Write {found[1]}=$HOME{found[2] or ''}"
            if not word.startswith("-"):
                return (
                    f"{word} cannot be read: expected key=value, with every bracket and quote closed. What holds spaces, brackets "
                    f'or quotes stands in quotes as a whole: \'key=["first text","second text"]\''
                )
    return text.strip()


def _suggest(key: str, conf: Path) -> str:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        keys = list(_keys(OmegaConf.to_container(_chosen(conf))))
    alike = any(there.rpartition(".")[2] == key for there in keys)
    return alternatives(key, keys, [] if alike else _homes(key, Written((conf,))))


def _homes(key: str, written: Written) -> list[str]:
    """The options that have this key, or a key that ends in this name: "method=admm"; "refine.lr with refine=block"."""
    found: dict[str, None] = {}  # in order, each once
    for option, there in written.every:
        if option is not None and (there.path == key or ("." not in key and there.path.endswith(f".{key}"))):
            group = written.groups[option.group]
            chosen = group.default.strip("[]")
            is_more = group.default.startswith("[") and chosen and there.path.split(".")[1] != chosen
            names = (
                f"[{chosen},{option.name}]"
                if is_more
                else f"[{option.name}]"
                if group.default.startswith("[")
                else option.name
            )
            found[f"{group.name}={names}" if "." in key else f"{there.path} with {group.name}={names}"] = None
    return list(found)


def _chosen(conf: Path) -> DictConfig:
    """The configuration with only the options that the command chose for groups."""
    groups = {folder.name for folder in conf.iterdir() if folder.is_dir()}
    chosen = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in groups]
    try:
        return compose("config", overrides=chosen)
    except HydraException:  # several values, or an option from another folder: use the defaults
        return compose("config")


def _keys(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items():
        name = f"{path}.{key}" if path else str(key)
        if not str(key).startswith("_"):  # _target_
            yield name
        if isinstance(value, dict):
            yield from _keys(value, name)


def _in_job(error: BaseException) -> bool:
    """True if a run raised the error; False if Hydra did when it made the run's folder."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == f"{__package__}.launch" for frame in frames)


def _tell() -> None:
    """Print the summary of the sweep, if this was one."""
    for line in sweeps.told():
        print(line, flush=True)


def _end_all(message: str) -> None:
    """Exit before a run begins. All processes find the same mistake, and only the first one prints it."""
    if together.rank():
        sys.exit(1)
    _end(message, 1)


def _end(message: str, status: int) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr)
    sys.exit(status)

"""Prepare a command line before Hydra reads it: flags are moved to the front, and mistakes in the other words are reported."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser  # the only list of Hydra's flags

from ..options.meant import unknown_flag, wrong
from ..options.written import Written
from ..user_error import UserError

ALONE = ("run", "multirun", "cfg", "info", "shell_completion")  # Hydra takes one of these flags


def arranged(arguments: Sequence[str], conf: Path) -> tuple[list[str], list[str]]:
    """Return the flags of a command line with their values, and its other words: argparse refuses flags between overrides.

    Raises `UserError` for a word with dashes that is not a flag, and for a flag without its value.
    """
    flags: list[str] = []
    words: list[str] = []
    known = get_args_parser()._option_string_actions
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        name, equals, _ = word.partition("=")
        if name not in known:
            following = rest[0] if rest else ""
            raise UserError(unknown_flag(word, following, [f for f in known if f.startswith("--")], Written((conf,))))
        flags.append(word)
        action = known[name]
        takes = action.nargs is None or (action.nargs == "?" and rest and rest[0] in (action.choices or ()))
        if takes and rest and not equals:
            flags.append(rest.pop(0))
    asked = _read(flags)
    if sum(bool(asked.__dict__[name]) for name in ALONE) > 1:
        raise UserError(f"got {' '.join(flags)}: expected one of them, because each starts something else")
    return flags, words


def check(flags: Sequence[str], words: Sequence[str], conf: Path, commands: Collection[str]) -> None:
    """Raise `UserError` for a mistake that the words show. Does nothing if the user chose another configuration than this one."""
    asked = _read(flags)
    elsewhere = any(word.lstrip("+").startswith("hydra.searchpath=") for word in words)
    if asked.config_path or asked.config_name or elsewhere:
        return
    own = [Path(asked.config_dir)] if asked.config_dir and Path(asked.config_dir).is_dir() else []
    if said := wrong(words, Written((conf, *own)), asked.multirun, commands):
        raise UserError(said)


def _read(flags: Sequence[str]) -> Namespace:
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]  # argparse would print its usage and exit
    return parser.parse_args(flags)


def _refuse(message: str) -> NoReturn:
    raise UserError(message)

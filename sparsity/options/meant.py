"""Mistakes that the words of a command line show by themselves, each with what to write instead.

They are found before anything is composed or loaded. A rule is a function of a word and of the command around it. It returns a
message, or None if it finds nothing wrong. Hydra judges the rest when it composes the configuration.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..record.started import started
from .mistakes import ELSEWHERE, NEEDLESS, no_option
from .written import Written

SWEEPS = re.compile(r"(choice|range|interval|glob|tag|sort|shuffle)\(")


@dataclass(frozen=True)
class Command:
    """The words of a command line that are not flags, and the configuration's files."""

    words: Sequence[str]
    written: Written
    sweep: bool  # -m
    commands: Collection[str] = field(default=())  # first words that are not options: "help", "report"

    def knows(self, key: str) -> bool:
        """True if it is the name of a group or of a value in config.yaml."""
        return key in self.written.groups or key in self.settings

    @cached_property
    def settings(self) -> dict[str, str]:
        return {key.path: key.value for key in self.written.settings}

    def chosen(self, group: str) -> str | None:
        """The chosen option of a group. None if it is not visible here: an experiment may choose it, or a sweep several."""
        named = [word.partition("=")[2] for word in self.words if word.startswith(f"{group}=")]
        if named:
            return named[-1] if re.fullmatch(r"[\w.-]+", named[-1]) else None
        return (
            None
            if any(word.lstrip("+").startswith("experiment=") for word in self.words)
            else self.written.groups[group].default
        )


@dataclass(frozen=True)
class Word:
    """A word `sign key = value`, such as "+method@method.routes.mlp=wanda". Without "=", `equals` and `value` are ""."""

    text: str
    place: int  # index among the command's words

    @property
    def parts(self) -> tuple[str, str, str, str]:
        found = re.fullmatch(r"(\+\+|\+|~|)([^=]*)(=?)(.*)", self.text, re.DOTALL)
        assert found is not None
        sign, key, equals, value = found.groups()
        return sign, key.strip(), equals, value.strip()


def wrong(words: Sequence[str], written: Written, sweep: bool, commands: Collection[str] = ()) -> str | None:
    """The message about the first mistake in the words of a command line; None if no rule finds one."""
    command = Command(words, written, sweep, commands)
    for place, text in enumerate(words):
        for rule in RULES:
            if said := rule(Word(text, place), command):
                return said
    return None


def unknown_flag(flag: str, following: str, flags: Collection[str], written: Written) -> str:
    """The message for a word with dashes that is not a flag: it suggests a flag or an option. `following`: the next word."""
    if close := difflib.get_close_matches(flag, flags, n=1, cutoff=0.75):
        return f"{flag} is no flag. Did you mean {close[0]}?"
    typed, _, value = flag.lstrip("-").partition("=")
    name = typed.replace("-", "_")
    if name in NEEDLESS:
        return f"{flag} is no flag. {NEEDLESS[name]}"
    if len(name) < 2:
        return f"{flag} is no flag. Options are written by their names and without dashes, such as sparsity=0.5"
    key = ELSEWHERE.get(name, name)
    if not value and following and "=" not in following and not following.startswith("-"):
        value = following
    switch = any(setting.path == key and setting.value in ("true", "false") for setting in written.settings)
    option = key if "=" in key else f"{key}={value or ('true' if switch else 'VALUE')}"
    return f"{flag} is no flag. Options are written without dashes: {option}"


# --- the rules --------------------------------------------------------------------------------------------------------


def is_no_pair(word: Word, command: Command) -> str | None:
    """A word without "=": `method = wanda`, `sparsity 0.5`, `plan`, `wanda`."""
    sign, key, equals, value = word.parts
    after = [*command.words[word.place + 1 :], "", ""]
    if equals and not key:
        return f"got {word.text}: expected a key in front of =, such as method={value or 'wanda'}"
    if equals and not value and after[0] and "=" not in after[0] and not after[0].startswith(("~", "-")):
        return f"got {key}= {after[0]}: expected no space around =. Write {key}={after[0]}"
    if equals and word.text.partition("=")[0].endswith(" "):
        return f"got {word.text!r}: expected no space around =. Write {key}={value}"
    if value.startswith("="):
        return f"got {word.text}: expected one =. Write {key}={value.lstrip('= ')}"
    if equals or sign == "~":
        return None
    if after[0].startswith("="):
        value = after[0][1:] or after[1]
        return (
            f"got {key} {after[0]} {'' if after[0][1:] else value}".rstrip()
            + f": expected no space around =. Write {key}={value}"
        )
    if ":" in key and command.knows(key.partition(":")[0]):
        return f"got {key}: expected key=value. Did you mean {key.replace(':', '=', 1)}?"
    if command.knows(key) and after[0] and "=" not in after[0] and not command.knows(after[0]):
        return f"got {key} {after[0]}: expected key=value. Did you mean {key}={after[0]}?"
    if command.settings.get(key) in ("true", "false"):
        return f"got {key}: expected key=value. Did you mean {key}=true?"
    if key in command.written.groups:
        options = ", ".join(command.written.groups[key].options)
        return f"got {key}: expected {key}=OPTION, one of {options}"
    if homes := [f"{group}={key}" for group, there in command.written.groups.items() if key in there.options]:
        return f"got {key}: expected key=value. Did you mean {' or '.join(homes)}?"
    if key in command.commands:
        return f"got {key} behind other words: expected it as the first one. Write {shlex.join(started())} {key} ..."
    if close := difflib.get_close_matches(key, command.commands, n=1):
        return f"got {key}: expected key=value, or a command. Did you mean {close[0]}?"
    return f"got {word.text}: expected key=value, such as method=wanda. If it belongs to the value before it, put both in quotes"


def is_two_options(word: Word, command: Command) -> str | None:
    """Two options in one word, because of quotes: "sparsity=0.5 plan=true"."""
    value = word.parts[-1]
    inside = re.search(r"\s\+?([\w.@/]+)=", value)
    if inside and value[:1] not in "\"'[{(" and command.knows(inside.group(1)):
        return f"got {word.text!r} as one word: expected one option a word. Take away the quotes around them"
    return None


def is_a_sweep(word: Word, command: Command) -> str | None:
    """Several values without -m."""
    _, key, _, value = word.parts
    several = "," in re.sub(r"\"[^\"]*\"|'[^']*'|\[.*\]|\{.*\}|\(.*\)", "", value, flags=re.DOTALL)
    if value.endswith(","):
        return f"got {word.text}: expected a value behind the last comma. Write {key}={value.rstrip(', ')}"
    if command.sweep or not (several or SWEEPS.match(value)):
        return None
    ways = [f"For a run of each, add -m: {shlex.join(started())} -m {key}={value}"]
    listed = command.written.groups[key].default if key in command.written.groups else command.settings.get(key, "[")
    if several and listed.startswith("["):
        ways.append(f"for a list, put it in brackets: {key}=[{value}]")
    if decimal := re.fullmatch(r"(-?\d+),(\d+)", value):
        ways.append(f"a decimal number has a point: {key}={decimal.group(1)}.{decimal.group(2)}")
    return f"{key}={value} has several values: expected one. {'; '.join(ways)}"


def is_left_out(word: Word, command: Command) -> str | None:
    """A group or value of config.yaml that `~` would remove (`~corrector`). Only keys that other files add can be removed."""
    sign, key, _, _ = word.parts
    groups = command.written.groups
    if sign != "~" or key == "tfidf":
        return None
    if key in groups:
        group = groups[key]
        nothing = f"{key}=[]" if group.default.startswith("[") else f"{key}=none" if "none" in group.options else ""
        todo = f"Write {nothing}" if nothing else f"Choose among {', '.join(group.options)}"
        return f"~{key} takes {key} away, and every run reads it: expected one of its options. {todo}"
    if any(path == key or path.startswith(f"{key}.") for path in command.settings):
        return (
            f"~{key} takes {key} away, and every run reads it: expected a value. Without this word it has its default"
        )
    return None


def is_no_option(word: Word, command: Command) -> str | None:
    """An option that a group does not have: `model=Qwen/Qwen3-0.6B`, `corrector=null`, `method=`."""
    _, key, equals, value = word.parts
    name, _, _ = key.partition("@")
    groups = command.written.groups
    if equals and name.startswith("hydra/") and re.fullmatch(r"(?i)null|true|false|\d*", value):
        return f"got {word.text}: expected the name of an option, such as hydra/launcher=basic"
    if not equals or name not in groups or name.startswith("hydra/") or re.match(r"[{$]", value) or SWEEPS.match(value):
        return None
    group = groups[name]
    is_list = group.default.startswith("[")
    plain = value.strip("\"'")
    listed = plain.startswith("[") or (command.sweep and "," in plain)
    entries = [entry.strip(" \"'") for entry in plain.strip("[]").split(",")] if listed else [plain]
    if listed and any(symbol in plain[1:-1] for symbol in "[]"):  # lists of lists, in a sweep
        return None
    for entry in entries if plain != "[]" else ():
        if entry.removesuffix(".yaml") not in group.options:
            if parts := _composition(name, entry, command):
                return f"There is no {name}={entry}. Did you mean {' '.join(parts)}?"
            return no_option(name, entry, group.options, is_list)
    return None


def _composition(group: str, entry: str, command: Command) -> list[str]:
    """The options in the name of a composition: `method=wanda+optimal` -> ["method=wanda", "corrector=optimal"]. Else empty."""
    first, *others = re.split(r" *[+/&] *", entry)
    groups = command.written.groups
    homes = [[f"{name}={part}" for name in groups if part in groups[name].options] for part in others]
    return (
        [f"{group}={first}", *(home[0] for home in homes)]
        if first in groups[group].options and others and all(homes)
        else []
    )


def is_a_section(word: Word, command: Command) -> str | None:
    """A section that gets a value, though it has values of its own: `scope=mlp`."""
    _, key, equals, value = word.parts
    inside = [f"{path}={given}" for path, given in command.settings.items() if path.startswith(f"{key}.")]
    if not equals or not inside or re.match(r"[{$]", value):
        return None
    return (
        f"{key}={value} is not valid: {key} has values of its own. Set one of them, such as {' or '.join(inside[:2])}"
    )


def is_nested(word: Word, command: Command) -> str | None:
    """A method inside another one without its group: `method.base=sparsegpt` instead of `method@method.base=sparsegpt`."""
    sign, key, equals, value = word.parts
    at, _, path = key.rpartition("@")
    group = path.partition(".")[0]
    if (
        not equals
        or sign == "~"
        or group not in command.written.groups
        or (at and at != group)
        or re.match(r"[{$]", value)
    ):
        return None
    places = command.written.nested(group)
    place = path.removeprefix(f"{group}.")
    *above, last = place.split(".")
    mappings = {known.rpartition(".")[0] for known in places if "." in known}  # routes accept any layer's name
    if not (last in places or place in places or (above and above[-1] in mappings)):
        return None
    chosen = command.chosen(group)
    homes = sorted(
        set().union(*(names for known, names in places.items() if known.split(".")[0] == place.split(".")[0]))
    )
    if chosen is not None and chosen in command.written.groups[group].options and homes and chosen not in homes:
        these = ", ".join(f"{group}={name}" for name in homes)
        return f"{group}={chosen} has no {place}. Choose one that has: {these}. Then write {group}@{path}={value}"
    new = chosen in homes and place not in places  # "+" adds a route that no file has
    written = f"{'+' if new else sign}{group}@{path}={value}"
    if at and (sign or not new):
        return None
    return f"{word.text} does not choose a {group}: an option inside another one is written with its group. Write {written}"


RULES: tuple[Callable[[Word, Command], str | None], ...] = (
    is_no_pair, is_two_options, is_a_sweep, is_left_out, is_nested, is_a_section, is_no_option,
)  # fmt: skip

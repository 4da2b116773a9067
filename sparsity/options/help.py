"""The pages of `python run.py help ...`: every group, option and value, explained by the comments of the configuration.

Light: it imports no component, no torch and no transformers.
"""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from ..record.started import started
from ..user_error import UserError
from .written import COMMAND, Group, Key, Option, Written

WIDEST = 100
TYPED = 34  # columns for key=value, before its type
CITED = re.compile(r"\(([^()]*\b(?:arXiv|ICLR|ICML|NeurIPS|ACL|EMNLP|AAAI|CVPR|JMLR)\b[^()]*\d{4}[^()]*)\)")
ARXIV = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
OWN = ("--config-dir", "-cd")  # Hydra's flag for a folder with the user's own options


def explain(words: Sequence[str], conf: Path) -> str:
    """The help on each of `words`: a group ("method"), an option ("method=pursuit"), or values ("scope", "refine.epochs").

    Without words: the ways to ask for help, and all groups and values with one line each. `conf`: the folder of the configuration;
    the words `--config-dir FOLDER` add another one. Raises `UserError` with similar names for an unknown word.
    """
    folders, asked, rest = [conf], [], iter(words)
    for word in rest:
        flag, _, folder = word.partition("=")
        if flag in OWN:
            folders.append(Path(folder or next(rest, ".")))
        elif word not in ("-h", "--help"):
            asked.append(word.lstrip("+~"))
    for folder in map(str, folders):
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir {folder} is no folder: expected one that holds <group>/<option>.yaml")
    page = Page(Written(tuple(folders)))
    return "\n\n".join("\n".join(page.on(word)) for word in asked) if asked else "\n".join(page.index())


class Page:
    """The lines of a help text, no wider than the terminal and `WIDEST`."""

    def __init__(self, written: Written):
        self.written, self.program = written, shlex.join(started())
        self.width = max(60, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))

    def index(self) -> Iterator[str]:
        """The page that says how to ask for help and lists all groups and values."""
        groups = self.written.groups
        ways = {
            "help method": "a group: its options with one line each",
            "help method=pursuit": "an option: its description, its values, its paper",
            "help sparsity": "a value; or several: help scope, help damp",
        }
        yield from self._wrapped(f"Groups and values are set by name: {self.program} method=wanda sparsity=0.6")
        yield ""
        yield from self._table({f"{self.program} {way}": meaning for way, meaning in ways.items()})
        yield "\nGroups\n"
        yield from self._table({name: group.text or ", ".join(group.options) for name, group in groups.items()})
        yield "\nValues\n"
        sections = {key.path.partition(".")[0]: key.text for key in reversed(self.written.settings)}
        yield from self._table(dict(reversed(sections.items())))

    def on(self, word: str) -> Iterator[str]:
        """The help on one word. Raises `UserError` if the name is unknown."""
        name, _, value = word.partition("=")
        group, _, place = name.partition("@")
        groups = self.written.groups
        if group in groups and value:
            options = [part.strip() for part in value.strip("[]").split(",")]
            for option in options:
                if option not in groups[group].options:
                    raise UserError(f"There is no {group}={option}.{_meant(option, groups[group].options, group)}")
            return self._apart(self.option(self.written.option(group, option)) for option in options)
        if name in groups:
            return self.group(groups[name])
        path = place or name
        if found := [(option, key) for option, key in self.written.every if _is_below(key.path, path)]:
            return self.keys(found)
        if homes := [group for group in groups.values() if name in group.options]:
            return self._apart(self.option(self.written.option(group.name, name)) for group in homes)
        if found := [(option, key) for option, key in self.written.every if key.path.endswith(f".{name}")]:
            return self.keys(found)
        raise UserError(f"help {word}: there is no group, option or value of that name.{self._nearest(name)}")

    def group(self, group: Group) -> Iterator[str]:
        """Yield a group: its options with one line each, then their values if all options have the same ones."""
        options = list(self.written.options(group.name))
        yield from self._wrapped(f"{group.name}: {group.text}" if group.text else group.name)
        if group.default.strip("[]"):
            yield f"The default is {group.name}={group.default}."
        yield ""
        yield from self._table({f"{group.name}={option.name}": option.summary for option in options})
        if len({(option.target, *(key.path for key in option.keys)) for option in options}) == 1:
            default = next((option for option in options if option.name == group.default), options[0])
            yield f"\nValues, as {group.name}={default.name} has them\n"
            for key in default.keys:
                others = [
                    (option.name, other.value) for option in options for other in option.keys if other.path == key.path
                ]
                differ = [f"{value} with {group.name}={name}" for name, value in others if value != key.value]
                yield from self._key(key, *differ)
        elif len(options) > 1:
            other = next((option.name for option in options if option.name != group.default), options[0].name)
            yield ""
            yield from self._wrapped(f"One of them in full: {self.program} help {group.name}={other}")

    def option(self, option: Option) -> Iterator[str]:
        """Yield an option: its description, its values and its paper."""
        yield f"{option.group}={option.name}" + (f"    {option.target}" if option.target else "")
        yield ""
        yield from self._described(option.header)
        if option.bases and option.group == "experiment":
            yield f"\nIt builds on {', '.join(f'experiment={base}' for base in option.bases)}"
        if option.chosen:
            yield ""
            yield from self._wrapped(f"It chooses {' '.join(option.chosen)}")
        if option.keys:
            yield "\nIt sets\n" if option.group == "experiment" else "\nValues\n"
            for key in option.keys:
                yield from self._key(key)
        yield from self._paper(option)

    def keys(self, found: Iterable[tuple[Option | None, Key]]) -> Iterator[str]:
        """Yield single values, each once, with the options that have it."""
        alike: dict[tuple[str, ...], tuple[Key, list[str]]] = {}
        for option, key in found:
            _, homes = alike.setdefault((key.typed, key.value, key.kind, key.text), (key, []))
            homes += [f"{option.group}={option.name}"] if option else []
        for key, homes in alike.values():
            yield from self._key(key, *([f"in {', '.join(homes)}"] if homes else []))

    def _key(self, key: Key, *notes: str) -> Iterator[str]:
        """Yield a value: key=value, its type and range, and its meaning below. A section has only a meaning."""
        if not key.value:
            yield from self._wrapped(f"{key.path}: {key.text}", "  ")
            return
        typed = f"{key.typed}={'...' if key.value == '???' else key.value}"
        kind = f"an option of the group {key.group}" if key.group else key.kind
        said = "; ".join([*filter(None, (kind, _source(key.value))), *notes])
        if len(typed) <= TYPED:
            yield from self._wrapped(f"{typed:<{TYPED}}  {said}".rstrip(), "  ", " " * 6)
        else:
            yield from self._wrapped(typed, "  ", " " * 6)
            yield from self._wrapped(said, " " * 6)
        yield from self._wrapped(key.text, " " * 6)

    def _paper(self, option: Option) -> Iterator[str]:
        """Yield the paper in the YAML file or in a docstring's first paragraph; else one that the docstrings cite further down."""
        texts = option.owner.texts if option.owner else ()
        for text in (" ".join(option.header), *(text.partition("\n\n")[0] for text in texts)):
            if cited := _cited(text):
                yield from ["", *self._wrapped(f"Paper: {cited}")]
                return
        if cited := _cited(" ".join(texts)):
            yield from ["", *self._wrapped(f"See also: {cited}")]

    def _described(self, header: Iterable[str]) -> Iterator[str]:
        """Yield a description. Sentences are wrapped; a command has lines of its own and can be copied."""
        parts = groupby(header, key=lambda line: bool(COMMAND.match(line)))
        for number, (is_command, lines) in enumerate(parts):
            if number:
                yield ""
            if not is_command:
                yield from self._wrapped(" ".join(lines), "  ")
                continue
            for line in lines:
                command, *notes = re.split(r" {3,}", line.strip())
                yield from self._command(command)
                for note in notes:
                    yield from self._wrapped(note, " " * 8)

    def _command(self, command: str) -> Iterator[str]:
        lines = textwrap.wrap(command, self.width - 6, break_long_words=False, break_on_hyphens=False)
        for number, line in enumerate(lines):
            yield f"{' ' * (8 if number else 4)}{line}{' ' + chr(92) if number < len(lines) - 1 else ''}"

    def _table(self, rows: dict[str, str]) -> Iterator[str]:
        """Yield each name with the beginning of its meaning in one line, or in two lines if the terminal is narrow."""
        column = max(map(len, rows), default=0)
        beside = self.width - column - 6
        for name, meaning in rows.items():
            if beside > 30:
                yield f"  {name:<{column}}    {textwrap.shorten(meaning, beside, placeholder=' ...')}".rstrip()
            else:
                yield f"  {name}"
                yield f"      {textwrap.shorten(meaning, self.width - 6, placeholder=' ...')}".rstrip()

    def _wrapped(self, text: str, first: str = "", later: str | None = None) -> list[str]:
        later = first if later is None else later
        return textwrap.wrap(text, self.width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)

    def _apart(self, parts: Iterable[Iterable[str]]) -> Iterator[str]:
        for number, part in enumerate(parts):
            if number:
                yield ""
            yield from part

    def _nearest(self, name: str) -> str:
        """The names nearest to a word, as they are typed behind `help`."""
        written = self.written
        names = {key.path.rpartition(".")[2]: key.path for _, key in written.every}
        names |= {option: f"{group.name}={option}" for group in written.groups.values() for option in group.options}
        names |= {key.path: key.path for _, key in written.every} | {group: group for group in written.groups}
        close = difflib.get_close_matches(name.lower(), names, n=3)
        hint = f"\nDid you mean: {', '.join(dict.fromkeys(names[word] for word in close))}?" if close else ""
        return (
            f"{hint}\nGroups: {', '.join(written.groups)}\nAll that there is, with one line each: {self.program} help"
        )


def _is_below(path: str, name: str) -> bool:
    return path == name or path.startswith(f"{name}.")


def _meant(name: str, options: Iterable[str], group: str) -> str:
    close = difflib.get_close_matches(name.lower(), list(options), n=3, cutoff=0.5)
    hint = f"\nDid you mean: {', '.join(f'{group}={option}' for option in close)}?" if close else ""
    return f"{hint}\nOptions of {group}: {', '.join(options)}"


def _source(value: str) -> str:
    """The source of a value that a file takes from the environment or from another value. Empty if the file has it."""
    match = re.search(r"\$\{(?:oc\.(env|select):)?([\w.]+)(?:,([^}]*))?\}", value)
    if value == "???":
        return "has to be set"
    if match is None:
        return ""
    source, name, other = match.groups()
    where = f"the environment variable {name}" if source == "env" else name
    return f"by default {where}, else {other}" if other else f"by default {where}"


def _cited(text: str) -> str:
    """The first paper that a text cites, with its address on arXiv. Empty if there is none."""
    found = CITED.search(text)
    number = ARXIV.search(found.group(1) if found else text)
    name = found.group(1) if found else number.group(0) if number else ""
    return f"{name}    https://arxiv.org/abs/{number.group(1)}" if number else name

"""The contents of the configuration's files, comments included: the options of every group, and their keys with their meanings.

In a file of conf/ the comment at the top describes the option, and the comment after `key: value` describes the key. It may
continue in the lines below, in the same column. An entry of the defaults list is described in the same way. YAML's parser gives the
places of keys and values, so a "#" inside a value is no comment.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from .declared import Declared, declared

SETTINGS = "sparsity.options.settings.Settings"  # the keys of config.yaml
HERE = "_here_"  # Hydra's word: the keys of that option are placed where this file's keys are
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, if PyYAML was built with it
Pairs = list[tuple[yaml.ScalarNode, yaml.Node]]
COMMAND = re.compile(
    r"( {2,}|([A-Z_0-9]+=\S+ )*(PYTHONPATH=\S+ )?python (run\.py|-m) )"
)  # the beginning of a line with a command


@dataclass(frozen=True)
class Key:
    """A value that can be set, such as `method.rounds` with 6 in the file."""

    path: str
    value: str  # empty for a section with keys of its own, such as `scope`
    text: str
    group: str | None = None  # the value is an option of this group: `method@method.base=wanda`
    owner: Declared | None = field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """The type and the range, in words; empty if they are unknown."""
        return self.owner.says(self.path.rpartition(".")[2]) if self.owner else ""

    @property
    def typed(self) -> str:
        """The key as it is typed before the `=` on a command line."""
        return f"{self.group}@{self.path}" if self.group else self.path


@dataclass(frozen=True)
class Option:
    """A file of a group: `method=pursuit`."""

    group: str
    name: str
    header: tuple[str, ...]  # the lines of the comment at the top
    keys: tuple[Key, ...]
    target: str | None  # the dotted name of its class
    chosen: tuple[str, ...]  # the options that an experiment chooses: "method=wanda"
    bases: tuple[str, ...]  # the files that it builds on

    @property
    def prose(self) -> str:
        """The description without its commands, in one line."""
        return " ".join(line for line in self.header if not COMMAND.match(line))

    @property
    def owner(self) -> Declared | None:
        return declared(self.target) if self.target else None

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return re.split(r"(?<=[.!?])\s+(?=[A-Z\"`(])", self.prose or " ".join(self.header).strip(), maxsplit=1)[0]


@dataclass(frozen=True)
class Group:
    """A folder of options. A run has one option of a group, and several of `evaluation`, `tracker` and `experiment`."""

    name: str
    text: str
    default: str  # as it is typed: "admm", "[perplexity]"; empty if the configuration chooses none
    options: dict[str, Path]


@dataclass(frozen=True)
class Written:
    """The folders of a configuration. If two have the same file, that of the first folder counts."""

    folders: tuple[Path, ...]

    @cached_property
    def groups(self) -> dict[str, Group]:
        """All groups, in the order of the defaults list. Of Hydra's own groups only launchers and sweepers are included."""
        chosen = {group: (value, text) for group, value, text in self._root.defaults}
        beside = [path.name for folder in self.folders for path in sorted(folder.iterdir()) if path.is_dir()]
        names = dict.fromkeys(
            [*chosen, *(name for name in beside if name != "hydra"), "hydra/launcher", "hydra/sweeper"]
        )
        found = {}
        for name in names:
            options: dict[str, Path] = {}
            for folder in self.folders:
                for file in sorted((folder / name).glob("*.yaml")):
                    options.setdefault(file.stem, file)
            if options:
                default, text = chosen.get(name, ("", ""))
                found[name] = Group(name, text, default, dict(sorted(options.items())))
        return found

    @cached_property
    def settings(self) -> tuple[Key, ...]:
        """The keys of config.yaml: `sparsity`, `scope.roles`."""
        owner = declared(SETTINGS)
        nodes = [(key, value) for key, value in self._root.pairs if key.value not in ("defaults", "hydra")]
        return tuple(_keys(self._root, nodes, "", owner, {}))

    def option(self, group: str, name: str, package: str | None = None) -> Option:
        """An option of a group. `package`: the place of its keys, if it is not the group's name."""
        source = Source(self.groups[group].options[name])
        package = "" if source.is_global else group.replace("/", ".") if package is None else package
        settings = declared(SETTINGS)
        owner = settings.inside(group) if settings else None  # the keys of `calibration` are settings
        choices, whole = self._nested(source, package)
        nested = {choice.path: choice.owner for choice in choices}
        own = [pair for pair in source.pairs if pair[0].value != "defaults"]
        keys = {
            key.path: key
            for key in (*(whole.keys if whole else ()), *choices, *_keys(source, own, package, owner, nested))
        }
        chosen = tuple(f"{entry}={value}" for entry, value, _ in source.overrides)
        target = source.target or (whole.target if whole else None)
        return Option(group, name, source.header, tuple(keys.values()), target, chosen, source.bases)

    def options(self, group: str) -> Iterator[Option]:
        for name in self.groups[group].options:
            yield self.option(group, name)

    def nested(self, group: str) -> dict[str, set[str]]:
        """The places in options of `group` for another option of it, such as "base" or "routes.mlp", with these options' names."""
        places: dict[str, set[str]] = {}
        for name, file in self.groups[group].options.items():
            for place in re.findall(rf"^ *- /{group}@([\w.]+):", file.read_text(encoding="utf-8"), re.MULTILINE):
                places.setdefault(place, set()).add(name)
        places.pop(HERE, None)
        return places

    @cached_property
    def every(self) -> tuple[tuple[Option | None, Key], ...]:
        """Every key that can be set, with its option; None for config.yaml. Without experiments: they set keys of other options."""
        keys: list[tuple[Option | None, Key]] = [(None, key) for key in self.settings]
        for group in self.groups:
            if group != "experiment":
                keys += [(option, key) for option in self.options(group) for key in option.keys]
        return tuple(keys)

    @cached_property
    def _root(self) -> Source:
        return Source(self.folders[0] / "config.yaml")

    def _nested(self, source: Source, package: str) -> tuple[list[Key], Option | None]:
        """The choices that a defaults list puts here (`/method@base: wanda`), and the option that it puts here as a whole."""
        choices: list[Key] = []
        whole = None
        for entry, value, text in source.defaults:
            group, _, at = entry.lstrip("/").partition("@")
            if not at or value not in self.groups.get(group, Group("", "", "", {})).options:
                continue
            if at == HERE:
                whole = self.option(group, value, package)
            else:
                option = self.option(group, value)
                meaning = text or f"{value}: {option.summary}"
                choices.append(Key(f"{package}.{at}", value, meaning, group, option.owner))
        return choices, whole


def _keys(
    source: Source, pairs: Pairs, package: str, owner: Declared | None, nested: Mapping[str, Declared | None]
) -> Iterator[Key]:
    """Yield the keys below `package`, with those of inner mappings. `nested`: the classes that a defaults list puts there."""
    named = [str(value.value) for key, value in pairs if key.value == "_target_"]
    owner = declared(named[0]) if named else owner
    for key, value in pairs:
        name = str(key.value)
        path = f"{package}.{name}" if package else name
        if name.startswith("_"):
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            if text := source.comment(key, value):
                yield Key(path, "", text)
            inside = nested[path] if path in nested else owner.inside(name) if owner else None
            yield from _keys(source, value.value, path, inside, nested)
        else:
            yield Key(path, source.said(value), source.comment(key, value), None, owner)


@dataclass(frozen=True)
class Source:
    """A YAML file with its comments."""

    file: Path

    @cached_property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def pairs(self) -> Pairs:
        node = yaml.compose(self.text, Loader=LOADER)
        return list(node.value) if isinstance(node, yaml.MappingNode) else []

    @property
    def is_global(self) -> bool:
        """True if its keys are placed at the top of the configuration, like those of an experiment."""
        return any(line.startswith("# @package _global_") for line in self.lines[:3])

    @cached_property
    def header(self) -> tuple[str, ...]:
        found = []
        for line in self.lines:
            if not line.startswith("#"):
                break
            if not line.startswith("# @"):
                found.append(line.removeprefix("#").removeprefix(" ").rstrip())
        return tuple(found)

    @property
    def target(self) -> str | None:
        """The first `_target_` of the file."""
        for key, value in self.pairs:
            inside = value.value if isinstance(value, yaml.MappingNode) else [(key, value)]
            for name, node in inside:
                if name.value == "_target_":
                    return str(node.value)
        return None

    @property
    def defaults(self) -> Iterator[tuple[str, str, str]]:
        """Yield (entry, option, comment) of the defaults list, without the entries that begin with "override"."""
        return ((entry, value, text) for entry, value, text in self._entries if not entry.startswith("override "))

    @property
    def overrides(self) -> Iterator[tuple[str, str, str]]:
        for entry, value, text in self._entries:
            if entry.startswith("override "):
                yield entry.removeprefix("override ").strip().lstrip("/"), value, text

    @property
    def bases(self) -> tuple[str, ...]:
        """The entries of the defaults list that name a file in the same folder."""
        names = [str(entry.value) for entry in self._listed if isinstance(entry, yaml.ScalarNode)]
        return tuple(name for name in names if name != "_self_")

    @property
    def _entries(self) -> Iterator[tuple[str, str, str]]:
        for entry in self._listed:
            for key, value in entry.value if isinstance(entry, yaml.MappingNode) else ():
                yield str(key.value), self.said(value), self.comment(key, value)

    @property
    def _listed(self) -> list[yaml.Node]:
        found = [value for key, value in self.pairs if key.value == "defaults"]
        return list(found[0].value) if found and isinstance(found[0], yaml.SequenceNode) else []

    def said(self, value: yaml.Node) -> str:
        """A value as it is typed on a command line: lists in brackets, without spaces around commas."""
        if isinstance(value, yaml.SequenceNode):
            return f"[{','.join(self.said(entry) for entry in value.value)}]"
        return self.text[value.start_mark.index : value.end_mark.index].strip()

    def comment(self, key: yaml.Node, value: yaml.Node) -> str:
        """The comment behind the value, with its lines below in the same column; else the comment above the key."""
        opens = isinstance(value, (yaml.MappingNode, yaml.SequenceNode)) and not value.flow_style
        at = key.end_mark if opens else value.end_mark
        found = re.search(r"#\s?(.*)$", self.lines[at.line][at.column :].lstrip(":"))
        if found is None:
            return self._above(key)
        column, said = self.lines[at.line].rindex("#" + found.group(0)[1:]), [found.group(1)]
        for line in self.lines[at.line + 1 :]:
            if len(line) <= column or line[column] != "#" or line[:column].strip():
                break
            said.append(line[column + 1 :].strip())
        return " ".join(said).strip()

    def _above(self, key: yaml.Node) -> str:
        said: list[str] = []
        for number in range(key.start_mark.line - 1, len(self.header), -1):
            line = self.lines[number].strip()
            if not line.startswith("#"):
                break
            said.insert(0, line.removeprefix("#").strip())
        return " ".join(said)

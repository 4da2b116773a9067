"""Reads a folder of lm-eval's task files without lm-eval: the tasks that it describes, and the files that each task consists of.

A task is a YAML file with a `task:`. It may `include:` other files, whose options it overrides, call functions of Python files
beside it (`!function`), and name its data. All of these can change the answers, so all of them are files of the run.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core import UserError

UNREAD = {"__pycache__", ".ipynb_checkpoints"}  # folders that lm-eval does not read either


@dataclass(frozen=True)
class TaskFile:
    """One task of lm-eval, as its file describes it."""

    name: str
    path: Path
    options: Mapping[str, Any]  # including those of the included files
    sources: tuple[Path, ...]  # this file, the included ones, and the Python files beside them

    @property
    def data(self) -> list[str]:
        """The local files and folders that hold the documents, as they are written in the task file: patterns are not expanded."""
        options = self.options.get("dataset_kwargs") or {}
        named = [str(self.options.get("dataset_path")), *_strings(options.get("data_dir"))]
        folders = [path for path in named if Path(path).is_dir()]
        return folders + [path for path in _strings(options.get("data_files")) if "://" not in path]

    def files(self) -> list[Path]:
        """All files that the task consists of. Raises `UserError` if its data is missing."""
        files = list(self.sources)
        for named in self.data:
            found = [Path(path) for path in sorted(glob.glob(str(Path(named).expanduser()), recursive=True))]
            if not found:
                raise UserError(
                    f"the data of task {self.name} is missing: {self.path} names {named}. Expected a file; mend the path, or write "
                    f"the task files again: python -m sparsity.runs.tasks DATA_FOLDER TASKS_FOLDER"
                )
            files += [file for path in found for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
        return [file.absolute() for file in files if file.is_file()]


def read_tasks(folder: Path) -> dict[str, TaskFile]:
    """The tasks of a folder and its subfolders, by name. As in lm-eval, the first file with a name counts."""
    tasks: dict[str, TaskFile] = {}
    for path in sorted(folder.rglob("*.yaml")):
        if UNREAD.isdisjoint(path.parts):
            options, sources = _read(path.absolute())
            name = options.get("task")
            if isinstance(name, str) and "group" not in options:
                tasks.setdefault(name, TaskFile(name, path, options, tuple(dict.fromkeys(sources))))
    return tasks


def read_options(path: Path) -> dict[str, Any]:
    """The options of a task file, including those of the files that it includes."""
    return _read(path.absolute())[0]


class _Loader(yaml.SafeLoader):
    """A YAML loader that keeps `!function module.name` as a string."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def _read(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict[str, Any], list[Path]]:
    """The options of a file and of the files that it includes, and the list of all these files."""
    try:
        own = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a safe loader
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # YAML's messages have several lines
        raise UserError(
            f"{path} cannot be read ({reason}): expected a task file of lm-eval. Mend it, or move it away"
        ) from error
    if path in above:
        raise UserError(f"{path} includes itself: expected a chain of files that ends. Mend its include")
    if not isinstance(own, dict):
        return {}, []
    options: dict[str, Any] = {}
    sources = [path, *sorted(path.parent.glob("*.py"))]
    for include in _strings(own.pop("include", None)):
        included, files = _read((path.parent / include).absolute(), (*above, path))
        options |= included
        sources += files
    return options | own, sources


def _strings(value: Any) -> Iterator[str]:
    """The strings in a string, a list, a mapping, or nothing."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(inner)

"""The reason why a run is computed again or not resumed: the inputs that changed since the same command ran last."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..record.store import ENVIRONMENT, JOURNAL, RESULT
from .key import ASIDE, WATCHES

MOST = 3  # the number of changes of one kind that are named
UNHEARD = {*ASIDE, WATCHES} - {"sparsity", "seed"}  # options that do not make a command another one
KINDS = {"options", "versions", "device", "files", "code"}  # of inputs
NOTHING = object()

Change = tuple[str, Any, Any]  # an option's path, its earlier value and its present value; NOTHING if absent


class Earlier(NamedTuple):
    """An earlier run of the same command, found on disk."""

    time: str  # ISO 8601, always in the same time zone
    folder: Path
    finished: bool
    inputs: Mapping[str, Any]  # {} if they were not recorded, or in another form than today


def recorded(overrides: Sequence[str], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The part of environment.json from which a later run can tell what changed."""
    return {"overrides": [*overrides], "inputs": dict(inputs)}


def why_again(root: Path, overrides: Sequence[str], inputs: Mapping[str, Any]) -> str | None:
    """Return a line that says which input changed since the newest run of the same command in `root` or up to two folders below.

    None if there was no such run, or if one of them had exactly these inputs.
    """
    found = _alike(root, overrides)
    if not found or any(earlier.inputs == inputs for earlier in found):
        return None
    last = found[-1]
    here = Path.cwd()
    folder = last.folder.relative_to(here) if last.folder.is_relative_to(here) else last.folder
    what = "computed again" if last.finished else "not resumed"
    return f"{what}: since {folder}, {difference(last.inputs, inputs)}"


def difference(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return how the inputs of two runs differ: "method.damp is 0.02, was 0.01; the code of sparsity/linalg.py changed"."""
    if not earlier:
        return "this program changed, which did not record then what its results depend on"
    values = [f"{path} {_is(new)}, {_was(old)}" for path, old, new in _changes(_values(earlier), _values(now), "")]
    clauses = [_some(values, "; ")] if values else []
    if files := _changed(earlier["files"], now["files"]):
        clauses.append(f"{_some(files)} changed")
    # Another version of Python changes every digest of code: then the code is not named.
    if (sources := _changed(earlier["code"], now["code"])) and not any(value.startswith("python ") for value in values):
        clauses.append(f"the code of {_some(sources)} changed")
    return "; ".join(clauses)


def _alike(root: Path, overrides: Sequence[str]) -> list[Earlier]:
    """The runs of the same command that finished or left a journal, the oldest first."""
    asked = _heard(overrides)
    found = []
    for depth in ("", "*/", "*/*/"):
        for path in root.glob(depth + ENVIRONMENT):
            environment, folder = _read(path), path.parent
            result = _read(folder / RESULT)
            words = environment.get("overrides", result.get("overrides"))  # older runs wrote them into result.json
            alike = isinstance(words, list) and _heard(words) == asked
            if alike and (result or (folder / JOURNAL).is_dir()):
                its = environment.get("inputs")
                inputs = its if isinstance(its, Mapping) and its.keys() >= KINDS else {}
                found.append(Earlier(str(environment.get("time")), folder, bool(result), inputs))
    return sorted(found, key=lambda earlier: (earlier.time, earlier.folder))


def _heard(overrides: Sequence[str]) -> list[str]:
    """The overrides of a command that decide what is computed, sorted."""
    return sorted(word for word in map(str, overrides) if re.split(r"[.@=]", word.lstrip("+~"))[0] not in UNHEARD)


def _read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} if the file is missing or damaged."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _changes(old: Any, new: Any, path: str) -> Iterator[Change]:
    """Yield every value that changed, with its path ("calibration.seqlen")."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            inner = f"{path}.{name}" if path else name
            yield from _changes(old.get(name, NOTHING), new.get(name, NOTHING), inner)
    elif old != new:
        yield path, old, new


def _values(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {**inputs["options"], **inputs["versions"], "device": inputs["device"]}


def _changed(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The files that both runs read and that changed; if there are none, the files that only one of the runs read."""
    both = [name for name in now if name in earlier and earlier[name] != now[name]]
    return both or sorted(earlier.keys() ^ now.keys())


def _is(new: Any) -> str:
    return "is gone" if new is NOTHING else f"is {new}"


def _was(old: Any) -> str:
    return "was not there" if old is NOTHING else f"was {old}"


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = len(names) - MOST
    return between.join([*names[:MOST], *([f"{more} more"] if more > 0 else [])])

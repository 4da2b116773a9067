"""What distinguishes runs: the options that differ between their configurations, found, each said once.

An option is left out if it cannot change a result (where files go, who watches), if the run does not read it (`tfidf` of a method
without one), if it follows from the option of its group (`method.scope` from `method=wanda`, unless it was given by itself), or if
it is a copy of another (`tfidf.seed` of `seed`). Whatever belongs to the protocol is not an option: see protocol.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..record.groups import PRUNING, SHARED
from .read import Run

# Options without influence on a result, and those that protocol.py answers for.
APART = {
    "name", "plan", "rerun", "save", "packed", "allow", "tracker", "layer_error", "journal", "cache", "objective",
    "model", "reference", "dtype", "device", "evaluation", "dataset.evaluation",
}  # fmt: skip
# What is typed as `sparsity` and `seed` is read as these; a pattern such as 2of4 reads no `sparsity`.
TYPED = {"pattern.sparsity": "sparsity", "calibration.seed": "seed"}
ORDER = (
    "checkpoint",
    "method",
    "tfidf",
    "corrector",
    "refine",
    "recover",
    "pattern",
    "allocation",
    "sparsity",
    "dataset",
    "calibration",
)
GROUPS = {"checkpoint", "tfidf", "dataset", *PRUNING}  # whose options speak for themselves

Options = dict[str, str]


def heading(name: str) -> str:
    return TYPED.get(name, name)


def is_seed(name: str) -> bool:
    return name.rpartition(".")[2] == "seed"


def options(run: Run) -> Options:
    """All that a run was told and reads, as text, by its dotted name. A group's name stands for the option chosen for it."""
    flat = dict(flatten(run.config) if run.config else _typed(run))
    for read, typed in TYPED.items():
        owner = run.config.get(read.partition(".")[0])
        if isinstance(owner, Mapping) and typed in flat:
            del flat[typed]
    for name in ("calibration", "evaluation"):  # a text is what it says, wherever it lies
        digest = getattr(run.result.dataset, f"{name}_sha256")
        if f"dataset.{name}" in flat and digest:
            flat[f"dataset.{name}"] = f"{PurePath(flat[f'dataset.{name}']).name} {digest[:8]}"
    chosen = choices(run)
    for group in SHARED:
        copies = [name for name in flat if f".{group}." in name]
        for name in copies:  # of the group's own values, which interpolation put there
            if flat[name] == flat.get(name[name.index(f".{group}.") + 1 :]):
                del flat[name]
        if run.config and not copies:
            flat = {name: value for name, value in flat.items() if not _within(name, group)}
            chosen.pop(group, None)
    if run.result.reference:  # a finished checkpoint, which is measured and may come from anywhere
        chosen["checkpoint"] = str(run.result.model.name)
    every = {**chosen, **{name: value for name, value in flat.items() if not name.endswith("._target_")}}
    return {name: value for name, value in every.items() if not any(_within(name, group) for group in APART)}


def tables(runs: Sequence[Run]) -> list[Options]:
    """Every run's options. A group whose choice one run recorded and another did not is the same choice where it holds the same."""
    rows = [options(run) for run in runs]
    for group in SHARED:
        values = [{name: value for name, value in row.items() if name.startswith(f"{group}.")} for row in rows]
        known = [(held, row[group]) for held, row in zip(values, rows, strict=True) if group in row]
        for held, row in zip(values, rows, strict=True):
            if held and group not in row:
                row.update((group, option) for other, option in known if other == held)
    nested = {name for run in runs for name in choices(run) if "." in name}
    for name in nested:  # the route that its method comes with is not worth saying
        untyped = [row for run, row in zip(runs, rows, strict=True) if name in row and name not in given(run)]
        if _follows(name, [name.partition(".")[0]], untyped):
            for row in untyped:
                del row[name]
    return rows


def given(run: Run) -> set[str]:
    """The options that the command line named."""
    return {_place(word.partition("=")[0]) for word in run.overrides}


def choices(run: Run) -> dict[str, str]:
    """Group -> option, as recorded and as typed: older runs did not record every group."""
    found = {_place(group): option for group, option in run.result.choices.items()}
    for word in run.overrides:
        group, _, option = word.partition("=")
        if "." not in group and isinstance(run.config.get(group), Mapping):
            found[group] = option
    return found


def flatten(node: Any, path: str = "") -> Iterable[tuple[str, str]]:
    """Dotted names and values as text. A list is one value."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, text(node)


def text(value: Any) -> str:
    """A value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(text, value))}]" if isinstance(value, list) else str(value)


def differing(runs: Sequence[Run], rows: Sequence[Options]) -> list[str]:
    """The names of the options that tell these runs apart, the method first and the seed last. `rows`: their `tables`."""
    typed = set[str]().union(*map(given, runs))
    groups = {group for run in runs for group in choices(run)}
    kept: list[str] = []
    for name in sorted(dict.fromkeys(name for row in rows for name in row), key=_rank):
        values = [row.get(name) for row in rows]
        if len(set(values)) == 1 or _repeated(name, kept, rows):
            continue
        settled = len(set(values) - {None}) == 1 or _follows(name, groups, rows)
        spoken = name in groups | GROUPS and name not in SHARED  # a shared group is there wherever a component reads it
        if not settled or name in typed or heading(name) in typed or spoken:
            kept.append(name)
    return kept


def usual(rows: Sequence[Options], names: Sequence[str]) -> Options:
    """Values that more than half of the runs have: said once, and left out of labels. Never a group's, sparsity or seed."""
    found = {}
    for name in names:
        values = [row[name] for row in rows if name in row]
        value, count = Counter(values).most_common(1)[0]
        varies = len(set(values)) > 1  # otherwise being set at all is what distinguishes
        if varies and name not in GROUPS and name not in TYPED and not is_seed(name) and 2 * count > len(values):
            found[name] = value
    return found


def label(options: Options, names: Sequence[str], usual: Options) -> str:
    """How a person tells a run from the others: "hybrid · optimal · sparsity 0.6"."""
    said = {
        name: short for name, short in shortened(names).items() if options.get(name, usual.get(name)) != usual.get(name)
    }
    return " · ".join(options[name] if name in GROUPS else f"{short} {options[name]}" for name, short in said.items())


def shortened(names: Sequence[str]) -> dict[str, str]:
    """The last part of each name, where no other name ends in it."""
    last = [heading(name).rpartition(".")[2] for name in names]
    return {name: short if last.count(short) == 1 else heading(name) for name, short in zip(names, last, strict=True)}


def words(options: Options, names: Sequence[str], usual: Options | None = None) -> str:
    """The same as one would type it: "method=hybrid corrector=optimal sparsity=0.6"."""
    said = [name for name in names if name in options and options[name] != (usual or {}).get(name)]
    return " ".join(f"{heading(name)}={options[name]}" for name in said)


def _typed(run: Run) -> dict[str, str]:
    """What the command line said, of a run whose configuration cannot be read."""
    pairs = (word.partition("=") for word in run.overrides)
    return {_place(name): value for name, _, value in pairs if name != "experiment"}


def _place(group: str) -> str:
    """method@method.routes.mlp -> method.routes.mlp: where the option of a nested group stands."""
    return group.partition("@")[2] or group


def _within(name: str, group: str) -> bool:
    return name == group or name.startswith(f"{group}.")


def _rank(name: str) -> tuple[bool, bool, int]:
    """Groups in this ORDER, each followed by its own options; then the rest as it stands; then the seeds."""
    group = name.partition(".")[0]
    return is_seed(name), is_seed(name) and name not in TYPED, ORDER.index(group) if group in ORDER else len(ORDER)


def _follows(name: str, groups: Iterable[str], table: Sequence[Options]) -> bool:
    """Is the option's value settled by what was chosen for the groups that it stands in?"""
    owners = [group for group in groups if name.startswith(f"{group}.")]
    settled: dict[tuple[str | None, ...], str] = {}
    return bool(owners) and all(
        settled.setdefault(tuple(row.get(owner) for owner in owners), row[name]) == row[name]
        for row in table
        if name in row
    )


def _repeated(name: str, kept: Iterable[str], table: Sequence[Options]) -> bool:
    """Does a kept option of the same last name say the same wherever this one is set?"""
    twins = [other for other in kept if heading(other).rpartition(".")[2] == heading(name).rpartition(".")[2]]
    return any(all(row.get(twin) == row[name] for row in table if name in row) for twin in twins)

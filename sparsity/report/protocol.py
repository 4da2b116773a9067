"""The protocol of a run: the conditions of its measurement. The report compares only runs with the same protocol."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ..record.result import Dataset, Model
from .read import Run, at

UNKNOWN = "not recorded"


def protocol(run: Run) -> dict[str, str]:
    """The conditions, in words, that must be equal for the figures of two runs to be comparable. `UNKNOWN` if not recorded."""
    result = run.result
    measured = result.evaluation.get("perplexity")
    return {
        # a checkpoint that was compared with a reference is a pruned form of the reference
        "dense model": _model(result.reference or result.model),
        "dtype": _known(result.model.dtype),
        "evaluation text": _text(result.dataset),
        "window length": _known(measured.get("seqlen"), "tokens") if measured else "perplexity not measured",
        "windows": _known(measured.get("windows")) if measured else "perplexity not measured",
        "device": _known(at(run.environment, "hardware.device_name")),
        "torch": _known(at(run.environment, "packages.torch")),
        "transformers": _known(at(run.environment, "packages.transformers")),
    }


def circumstances(run: Run) -> dict[str, str]:
    """The conditions that may change the last digits of a result. They are shown where two runs are compared."""
    return {
        "processes": _known(at(run.environment, "hardware.processes")),
        "threads": _known(at(run.environment, "hardware.threads")),
        "processor": _known(at(run.environment, "hardware.processor")),
        "python": _known(run.environment.get("python")),
        "commit": _known(run.environment.get("commit")),
    }


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """A text such as "windows: 24 and 48" for every condition that differs."""
    return [f"{name}: {a[name]} and {b[name]}" for name in a if a[name] != b[name]]


def groups(runs: Sequence[Run]) -> list[tuple[dict[str, str], list[int]]]:
    """The protocols and the indices of their runs, the protocol with the most runs first."""
    found: dict[tuple[str, ...], tuple[dict[str, str], list[int]]] = {}
    for i, run in enumerate(runs):
        conditions = protocol(run)
        found.setdefault(tuple(conditions.values()), (conditions, []))[1].append(i)
    return sorted(found.values(), key=lambda group: -len(group[1]))


def varying(protocols: Iterable[Mapping[str, str]]) -> list[str]:
    """The names of the conditions in which the protocols differ."""
    rows = list(protocols)
    return [name for name in (rows[0] if rows else ()) if len({row[name] for row in rows}) > 1]


def _model(model: Model) -> str:
    """Its name and where it came from: hashes and revisions tell apart what has one name."""
    return _known(model.name) + "".join(f", {key} {value}" for key, value in model.more.items())


def _text(dataset: Dataset) -> str:
    digest = dataset.evaluation_sha256
    file = PurePath(dataset.evaluation).name if dataset.evaluation else dataset.name
    # the file's name is no part of what is compared: the same text may lie under two
    return f"sha256 {digest}" if digest else f"{_known(file)}, hash not recorded"


def _known(value: Any, unit: str = "") -> str:
    return UNKNOWN if value is None else f"{value} {unit}".strip()

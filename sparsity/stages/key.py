"""When are two runs the same? The run key is a hash of everything that can change a result: the resolved options that matter, the
files they name, and the code that computes. Runs with one key are not repeated.
"""

from __future__ import annotations

import hashlib
import inspect
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..allocation import Allocation
from ..cache import content_hash
from ..options.settings import Settings
from ..record.folders import stamps
from ..stream import Needs

PACKAGE = Path(__file__).parents[1]
FOLDING = ("core.py", "linalg.py", "stream.py", "statistics/*.py", "groupings/*.py", "models/*.py")  # up to a statistic
MEASURING = (
    "predictions.py",
    "allocation/*.py",
    "methods/wanda.py",
    "patterns/*.py",
)  # and what an allocation does with it


def run_key(
    settings: Settings,
    options: Mapping[str, Any],
    files: Iterable[Path],
    device: torch.device,
    classes: Iterable[type],
) -> str:
    """16 hexadecimal digits. `options`: the components', resolved; `files`: what they read; `classes`: what they name."""
    # sparsity and seed act through the components that read them: 2-of-4 is the same run whatever `sparsity` says
    asides = {"name", "sparsity", "seed", "device", "allow", "plan", "rerun", "cache", "journal", "objective"}
    computed = settings.model_dump(exclude=asides)
    matters = {
        "settings": computed,
        "options": {group: chosen for group, chosen in options.items() if group != "tracker"},
        "files": stamps(files),
        "device": device.type,
        "code": code_version(classes),
        "python": platform.python_version(),  # whose manual dataset=pydocs is
        **versions(),
    }
    return content_hash(matters)[:16]


def statistics_key(needs: Needs) -> dict[str, Any]:
    """What can change a bit of statistics besides model, text and machine: versions, and the code that folds them."""
    statistics = {tap.statistic for taps in needs.values() for tap in taps}
    classes = {type(part) for statistic in statistics for part in (statistic, statistic.grouping) if part is not None}
    return {
        **versions(),
        "scikit-learn": version("scikit-learn"),  # which finds the topics
        "code": code_version(classes, FOLDING),
    }


def measurement_key(allocation: Allocation) -> dict[str, Any]:
    """What can change a bit of an allocation's measurement besides model, text, machine and its options."""
    return {**versions(), "code": code_version([type(allocation)], (*FOLDING, *MEASURING))}


def writing_key() -> dict[str, Any]:
    """What can change a token that a model writes besides model, prompts, machine and options."""
    return {**versions(), "code": code_version([], ("models/*.py",))}


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "transformers": version("transformers")}


def code_version(classes: Iterable[type], rooms: Iterable[str] = ("**/*.py",)) -> str:
    """sha256 over this package's source, or what the patterns name of it, and that of the user's own classes."""
    sources = {file for room in rooms for file in PACKAGE.glob(room)} | {Path(inspect.getfile(cls)) for cls in classes}
    digest = hashlib.sha256()
    for source in sorted(sources):
        name = source.relative_to(PACKAGE) if source.is_relative_to(PACKAGE) else source.name
        digest.update(f"{name}\n".encode() + source.read_bytes())
    return digest.hexdigest()

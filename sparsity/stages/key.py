"""The key of a run: two runs with equal keys give the same result, and the second is not computed.

The key is a hash of the run's inputs, which are all that can change a result: the resolved options that matter, the files that they
name, the code that computes, and the versions of the libraries that it uses. What a run caches for others (the dense model's
answers, statistics, measurements) has keys of the same kind, each with only the code that it depends on. Light: neither torch nor a
model is loaded to compute a key.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..code import Code, code
from ..record.digest import content_hash
from ..record.folders import stamps

if TYPE_CHECKING:
    import torch

    from ..allocation import Allocation
    from ..evaluator import Evaluator
    from ..options.settings import Settings
    from ..stream import Needs

# Settings that do not change a result by themselves. `sparsity` and `seed` count in the components that read them: a run with
# pattern 2-of-4 does not read `sparsity`, so that it has one key for all values.
ASIDE = {"name", "sparsity", "seed", "device", "allow", "plan", "rerun", "cache", "journal", "objective"}
WATCHES = "tracker"  # a group whose options and classes do not count either

RUN = "sparsity.runs.pipeline"  # imports the stages and runs them in order
WALK = (
    "sparsity.stream.BlockStream",
    "sparsity.cache.recalled",
    "sparsity.models.files.Files",
)  # the code that computes statistics or reads cached ones
# Files that a run imports but that change no number, with the reason. A folder ends in "/".
OUTSIDE = {
    "sparsity/code.py": "knows of what code a number depends",
    "sparsity/stages/key.py": "decides whether a run is the same",
    "sparsity/stages/again.py": "says why a run is not the same",
    "sparsity/stages/resources.py": "foretells what a run will take",
    "sparsity/options/mistakes.py": "words for mistakes, after which nothing is computed",
    "sparsity/record/console.py": "shows what was found",
    "sparsity/runs/preview.py": "shows what would be done",
    "sparsity/runs/together.py": "reads which process this is; how many there are is compared by itself",
    "sparsity/tracking/": "is told what was found",
}
# Libraries that compute: the imported name, and the name of the package whose version counts.
LIBRARIES = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "sklearn": "scikit-learn",
    "kneed": "kneed",
    "lm_eval": "lm-eval",
}


def inputs(
    settings: Settings, options: Mapping[str, Any], files: Iterable[Path], device: torch.device
) -> dict[str, Any]:
    """All inputs that can change a result, as a JSON value. `options`: the resolved options of the components; `files`: the files
    that they read.
    """
    computed = {group: chosen for group, chosen in options.items() if group != WATCHES}
    its = code([RUN, *_classes(computed)], OUTSIDE)
    found = {
        "options": settings.model_dump(exclude=ASIDE) | computed,
        "files": {path: [size, changed] for path, size, changed in stamps(files)},
        "device": device.type,
        "versions": {"python": platform.python_version(), **versions(its)},  # dataset=pydocs is Python's manual
        "code": its.files,
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str), parse_constant=str)  # infinity is no JSON
    return plain


def run_key(inputs: Mapping[str, Any]) -> str:
    """The run key of these inputs: 16 hexadecimal digits."""
    return content_hash(inputs)[:16]


def reference_key(evaluator: Evaluator) -> dict[str, Any]:
    """The code and versions that can change a bit of an evaluator's answers on the dense model.

    Model, text, machine and the evaluator's options are keyed by the caller.
    """
    return _key(
        [_name(evaluator), "sparsity.evaluation.Walked", "sparsity.models.Decoder", "sparsity.models.files.Files"]
    )


def statistics_key(needs: Needs) -> dict[str, Any]:
    """The code and versions that can change a bit of statistics or their files. Model, text and machine are keyed by the caller.

    The key is equal for all statistics of this package, so that one pass over the text can collect them together.
    """
    statistics = {tap.statistic for taps in needs.values() for tap in taps}
    parts = {part for statistic in statistics for part in (statistic, statistic.grouping) if part is not None}
    return _key([*map(_name, parts), "sparsity.statistics", "sparsity.groupings", *WALK])


def measurement_key(allocation: Allocation) -> dict[str, Any]:
    """The code and versions that can change a bit of an allocation's measurement.

    Model, text, machine and the allocation's options are keyed by the caller.
    """
    return _key([_name(allocation), *WALK])


def writing_key() -> dict[str, Any]:
    """The code and versions that can change a token that a model writes.

    Model, prompts, machine and options are keyed by the caller.
    """
    return _key(["sparsity.models.written"])


def versions(its: Code) -> dict[str, str | None]:
    """The versions of the `LIBRARIES` that this code imports; None for one that is not installed as a package."""
    found: dict[str, str | None] = {}
    for module, package in LIBRARIES.items():
        if module in its.libraries:
            try:
                found[package] = version(package)
            except PackageNotFoundError:
                found[package] = None
    return found


def _key(roots: Iterable[str]) -> dict[str, Any]:
    its = code(roots, OUTSIDE)
    return {**versions(its), "code": its.files}


def _name(component: object) -> str:
    """The dotted name of a component's class, or of the function that defines the class."""
    return f"{type(component).__module__}.{type(component).__qualname__.partition('.')[0]}"


def _classes(node: Any) -> Iterator[str]:
    """Yield the dotted names of the classes that options name (`_target_`)."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = [*node.values()]
    if isinstance(node, list):
        for value in node:
            yield from _classes(value)

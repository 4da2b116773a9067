"""From configuration to components: the one place that instantiates.

A `_target_` may name classes of this project and of the packages in `allow`; anything else is refused before it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from ..core import Corrector, Evaluator, Method, Pattern, UserError
from ..datasets import TextSource
from ..models import ModelSource
from .settings import check_arguments
from .tracking import Tracker

OURS = "sparsity"
COMPONENTS = ("model", "dataset", "method", "pattern", "corrector", "evaluation", "tracker")


@dataclass(frozen=True)
class Parts:
    model: ModelSource
    dataset: TextSource
    method: Method
    pattern: Pattern
    corrector: Corrector
    evaluation: Mapping[str, Evaluator]
    tracker: Tracker


def targets(path: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node with a `_target_`, and where it stands."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(f"{path}.{key}" if path else str(key), value)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from targets(f"{path}.{i}", value)


def components(config: DictConfig) -> dict[str, Any]:
    """The component groups of a configuration, resolved. `evaluation=[]` leaves no such key: nothing is evaluated."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {name: container.get(name) or {} for name in COMPONENTS}


def check_targets(parts: Mapping[str, Any], allow: list[str]) -> list[type]:
    """Refuse foreign targets, unknown options and values of the wrong type, naming where they stand. Returns the classes."""
    classes = []
    for path, node in targets("", dict(parts)):
        target = str(node["_target_"])
        if target.partition(".")[0] not in (OURS, *allow):
            raise UserError(
                f"{path}._target_={target} is refused: expected a class of {OURS}"
                f"{''.join(f' or {package}' for package in allow)}. To run another package's code, name it: allow=[{target.partition('.')[0]}]"
            )
        try:
            cls = get_class(target)
        except Exception as error:
            raise UserError(
                f"{path}._target_={target} cannot be imported ({error}): expected package.Class. "
                f"Is its folder on PYTHONPATH?"
            ) from error
        check_arguments(path, cls, {key: value for key, value in node.items() if not key.startswith("_")})
        classes.append(cls)
    return classes


def build(parts: Mapping[str, Any]) -> Parts:
    """The components, constructed once. What a constructor refuses is raised as it said it."""
    try:
        # "all": with the default, Hydra 1.3 turns a dataclass nested in a mapping back into a DictConfig
        return Parts(**instantiate(OmegaConf.create(dict(parts)), _convert_="all"))
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        raise (cause or UserError(str(error))) from error

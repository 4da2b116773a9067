"""Makes the components of a run from the configuration. Only this module instantiates them.

A `_target_` may name a class of this project or of the packages in `allow`. Any other is refused before it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ..allocation import Allocation
from ..core import Corrector, Method, Pattern, UserError
from ..datasets import TextSource
from ..evaluator import Evaluator
from ..models import Itself, ModelSource
from ..ranges import Refused
from ..record.groups import COMPONENTS, SHARED
from ..recover import Recovery
from ..refine import Refinement
from ..tracking import Tracker
from .mistakes import alternatives
from .settings import Settings, check_arguments

OURS = "sparsity"


@dataclass(frozen=True)
class Parts:
    """The components of a run."""

    model: ModelSource
    reference: ModelSource | Itself
    dataset: TextSource
    method: Method
    pattern: Pattern
    allocation: Allocation
    corrector: Corrector
    refine: Refinement
    recover: Recovery
    evaluation: Mapping[str, Evaluator]
    tracker: Mapping[str, Tracker]


def targets(path: str, node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the content of every node that has a `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(f"{path}.{key}" if path else str(key), value)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from targets(f"{path}.{i}", value)


def components(config: DictConfig) -> dict[str, Any]:
    """The resolved component groups of a configuration. For `evaluation=[]` the configuration has no such key: the group is empty.

    Raises `UserError` for an unknown key.
    """
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    known = (*Settings.model_fields, *COMPONENTS, *SHARED)
    for key in container:  # unknown keys: Hydra accepts `+key=...` and any line of an experiment
        if key not in known:
            raise UserError(f"There is no option {key!s}, so nothing would read it.{alternatives(str(key), known)}")
    parts = {name: container.get(name) or {} for name in COMPONENTS}
    for group in ("evaluation", "tracker"):  # lists: each of their files begins with the option's name
        for name, node in parts[group].items():
            if not isinstance(node, dict):
                raise UserError(
                    f"{group}.{name}={node} stands at the top of a file of conf/{group}: expected the name of the option first, "
                    f"and everything else indented below it, as in conf/{group}/*.yaml"
                )
    # an experiment may set options of an evaluator that was not chosen
    parts["evaluation"] = {name: node for name, node in parts["evaluation"].items() if "_target_" in node}
    return parts


def check_targets(parts: Mapping[str, Any], allow: list[str]) -> list[type]:
    """Raise `UserError` with the full path for a foreign target, an unknown option or a wrong value. Returns the classes."""
    classes = []
    for path, node in targets("", dict(parts)):
        target = str(node["_target_"])
        _check_package(f"{path}._target_={target}", target, allow)
        switches = [key for key in node if key.startswith("_") and key != "_target_"]
        if switches:  # _partial_, _args_, ...: with these Hydra does more than a constructor call
            raise UserError(
                f"{path}.{switches[0]} is refused: expected _target_ and the options of its class, nothing else"
            )
        try:
            cls = _class(target)
        except Exception as error:
            raise UserError(
                f"{path}._target_={target} cannot be imported ({type(error).__name__}: {error}): expected package.Class. "
                f"Is its folder on PYTHONPATH?"
            ) from error
        _check_package(f"{path}._target_={target}, which is {cls.__module__}.{cls.__name__},", cls.__module__, allow)
        check_arguments(path, cls, {key: value for key, value in node.items() if key != "_target_"})
        classes.append(cls)
    return classes


def _check_package(what: str, module: str, allow: list[str]) -> None:
    package = module.partition(".")[0]
    if package not in (OURS, *allow):
        raise UserError(
            f"{what} is refused: expected a class of {' or '.join((OURS, *allow))}. "
            f"To run another package's code, name it: allow=[{package}]"
        )


def _class(target: str) -> type:
    module, _, name = target.rpartition(".")
    cls = getattr(import_module(module), name)
    if not isinstance(cls, type):
        raise TypeError(f"{name} is no class")
    return cls


def check_source(parts: Parts, group: str) -> None:
    """Raise `UserError` with the option's full path for a mistake that a model or a text shows before it is read."""
    try:
        getattr(parts, group).check()
    except Refused as error:
        raise error.under(group) from error


def build(parts: Mapping[str, Any]) -> Parts:
    """Construct the components. An error of a constructor is raised unchanged, not as Hydra's error."""
    try:
        # "all": with the default, Hydra 1.3 turns a dataclass nested in a mapping back into a DictConfig
        return Parts(**instantiate(OmegaConf.create(dict(parts)), _convert_="all"))
    except InstantiationException as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, Refused):  # options that do not fit together; their class does not know their path
            raise cause.under(str(error).rpartition("full_key: ")[2]) from cause
        raise cause from cause.__cause__

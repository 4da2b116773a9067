"""The parts of a run in the words of the configuration's files, and the values that differ from those files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ..options.written import Key, Option, Written

PARTS = ("model", "reference", "method", "corrector", "pattern", "allocation", "refine", "recover", "evaluation")
UNSAID = {"reference": "none"}  # "none" is the model itself


def composition(config: Mapping[str, Any], choices: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yield (part, its lines): the chosen option with its first sentence, then the values that differ from the option's file.

    `config`: the resolved configuration. `choices`: group -> option; for a list such as `evaluation`, `config` has the names.
    Yields nothing if the configuration's files are inside an archive.
    """
    folders = [folder for folder in _folders() if folder.is_dir()]
    if not folders or not (folders[0] / "config.yaml").is_file():
        return
    written = Written(tuple(folders))
    for part in PARTS:
        chosen = [choices[part]] if part in choices else list(config.get(part) or {})
        for name in chosen:
            if UNSAID.get(part) != name and name in written.groups[part].options:
                yield part, list(_lines(written, written.option(part, name), config, choices))
    if differ := _different((key for key in written.settings if key.path != "plan"), config):
        yield "settings", [differ]


def _lines(written: Written, option: Option, config: Mapping[str, Any], choices: Mapping[str, str]) -> Iterator[str]:
    yield f"{option.name}: {option.summary}"
    if differ := _different(option.keys, config):
        yield differ
    for place, name in sorted(choices.items()):
        group, _, path = place.partition("@")  # "method@method.base": an option inside another one
        if path.startswith(f"{option.group}.") and name in written.groups[group].options:
            inside = written.option(group, name, path)
            yield f"{path} = {name}: {inside.summary}"
            if differ := _different(inside.keys, config):
                yield differ


def _different(keys: Iterable[Key], config: Mapping[str, Any]) -> str:
    """The values that differ from the file, in one line: "method.damp=0.1 (0.01 by default)". Empty if there are none."""
    return ", ".join(said for key in keys if (said := _differs(key, config)))


def _differs(key: Key, config: Mapping[str, Any]) -> str | None:
    if key.group or not key.value:  # a section, or a choice, which has its own line
        return None
    found: Any = config
    for part in key.path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    default = yaml.safe_load(key.value)
    if isinstance(default, str) and "${" in default:  # the value that it refers to in this run
        default = OmegaConf.create({**config, "default": default})["default"]
        default = OmegaConf.to_container(default) if OmegaConf.is_config(default) else default
    if found == default:
        return None
    return f"{key.path}={_typed(found)}" + ("" if key.value == "???" else f" ({_typed(default)} by default)")


def _typed(value: Any) -> str:
    """The value as it is typed on the command line."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return f"[{','.join(map(_typed, value))}]"
    return str(value)


def _folders() -> list[Path]:
    """The folders that Hydra composed the configuration from, the one with config.yaml first."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    return sorted(folders, key=lambda folder: not (folder / "config.yaml").is_file())

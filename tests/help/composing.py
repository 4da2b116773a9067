"""The options of conf/, and what a command line composes of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import initialize_config_dir
from omegaconf import DictConfig

from sparsity.options.components import Parts, build, check_targets, components
from sparsity.options.settings import read
from sparsity.stages.key import inputs, run_key

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "experiment")
}
LISTS = ("evaluation", "tracker")  # several options at once
CPU = torch.device("cpu")


@cache
def compose(*overrides: str) -> DictConfig:
    """The configuration that `python run.py <overrides>` composes. The tests share it: do not change it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def chosen(group: str, option: str) -> DictConfig:
    return compose(f"{group}=[{option}]" if group in LISTS else f"{group}={option}")


def assembled(*overrides: str) -> Parts:
    parts = components(compose(*overrides))
    check_targets(parts, [])
    return build(parts)


def key(*overrides: str) -> str:
    """The key of the run that these overrides ask of the tiny model."""
    return run_key(asked(*overrides))


def asked(*overrides: str) -> dict[str, Any]:
    """The inputs of that run."""
    config = compose("model=tiny", *(word for word in overrides if word != "model=tiny"))
    options = components(config)
    check_targets(options, [*config.allow])
    parts = build(options)
    return inputs(read(config), options, [*parts.model.files(), *parts.dataset.files()], CPU)

"""The options of conf/model: each is one complete constructor call."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparsity.models import Hub, Local, ModelSource, SmolLM2, Tiny

pytestmark = pytest.mark.usefixtures("no_network")

CONF = Path(__file__).parents[2] / "conf" / "model"
SOURCES: dict[str, Any] = {source.__name__: source for source in (Hub, Local, SmolLM2, Tiny)}


@pytest.mark.parametrize("option", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_yaml_lists_every_argument_and_no_argument_has_a_default(option: Path) -> None:
    keys = yaml.safe_load(option.read_text("utf-8"))
    package, _, name = keys.pop("_target_").rpartition(".")
    arguments = inspect.signature(SOURCES[name]).parameters
    assert package == "sparsity.models"
    assert list(keys) == list(arguments)
    assert all(argument.default is inspect.Parameter.empty for argument in arguments.values())
    source = SOURCES[name](**keys)
    assert isinstance(source, ModelSource)
    assert hash(source) == hash(SOURCES[name](**keys))


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_the_embedded_options_pass_their_own_check(name: str) -> None:
    keys = yaml.safe_load((CONF / f"{name}.yaml").read_text("utf-8"))
    SOURCES[keys.pop("_target_").rpartition(".")[2]](**keys).check()

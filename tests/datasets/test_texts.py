"""Every text source has one complete constructor call, is a frozen value, and has a description that identifies both texts."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from texts import CONF, hub_option, lay_out, option, text_files

from sparsity.datasets import PyDocs, TextSource

pytestmark = pytest.mark.usefixtures("no_traces")

OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_yaml_lists_exactly_the_arguments(name: str) -> None:
    target, arguments = option(name)
    parameters = inspect.signature(target).parameters
    assert list(arguments) == list(parameters)
    assert all(parameter.default is parameter.empty for parameter in parameters.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_a_source_is_a_frozen_value(name: str) -> None:
    target, arguments = option(name)
    source = target(**arguments)
    assert {source: 1}[target(**arguments)] == 1
    for field in fields(source):
        with pytest.raises(FrozenInstanceError):
            setattr(source, field.name, None)


def test_a_description_pins_both_texts(tmp_path: Path) -> None:
    hub = hub_option("ptb", repo=str(tmp_path))
    lay_out(hub, tmp_path)
    other = tmp_path / "other.txt"
    other.write_text("something else", encoding="utf-8")
    files = text_files(tmp_path / hub.calibration, other, hub.field)
    sources: list[TextSource] = [PyDocs(), hub, files]
    for source in sources:
        described = source.describe()
        assert all(type(key) is type(value) is str for key, value in described.items())
        assert described["calibration_sha256"] == hashlib.sha256(source.calibration_text().encode()).hexdigest()
        assert described["evaluation_sha256"] == hashlib.sha256(source.evaluation_text().encode()).hexdigest()
    other.write_text("changed", encoding="utf-8")
    assert files.describe()["evaluation_sha256"] == hashlib.sha256(b"changed").hexdigest()


def test_a_description_tells_sources_apart(tmp_path: Path) -> None:
    hub = hub_option("ptb", repo=str(tmp_path))
    lay_out(hub, tmp_path)
    changed = [replace(hub, revision="main"), replace(hub, calibration_documents=3), replace(hub, separator="")]
    assert len({json.dumps(source.describe()) for source in (hub, *changed)}) == 4

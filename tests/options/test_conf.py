"""The configuration: every option is one complete, commented constructor call, and overrides mean what they say."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from composing import CONF, LISTS, OPTIONS, assembled, chosen, compose, key
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import OmegaConf

from sparsity.core import Method, Pattern, Site
from sparsity.methods import Magnitude, Wanda
from sparsity.options.components import Parts, build, check_targets, components, targets
from sparsity.options.settings import Calibration, ScopeOptions, Settings, read
from sparsity.record.groups import COMPONENTS

EVERY = [(group, option) for group, names in OPTIONS.items() for option in names]
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
FILES = [f"{group}/{option}.yaml" for group, option in EVERY] + ["config.yaml"]


# --- every option -----------------------------------------------------------------------------------------------------


def test_the_groups_are_those_that_are_read():
    # `tfidf` and its like are no component: a method's options in a file of their own
    assert {*COMPONENTS, "calibration"} <= {*OPTIONS}
    assert all(OPTIONS.values())
    assert {*OPTIONS} <= {*compose()}


@pytest.mark.parametrize("group,option", EVERY)
def test_an_option_composes_and_all_its_references_resolve(group, option):
    config = OmegaConf.to_container(chosen(group, option), resolve=True)
    assert "${" not in str(config)
    written = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    if group in LISTS:  # several at once, each under its name; a named protocol is one of them with other options
        assert len(written) == 1
        assert [*config[group]] == [*written]
        assert {*written} <= {*OPTIONS[group]}
    for name, value in written.items():
        if name != "defaults" and not (isinstance(value, str) and "${" in value):
            found = config[group][name]
            if isinstance(value, dict):  # a few options of a nested choice
                value = {key: plain for key, plain in value.items() if "${" not in str(plain)}
                found = {key: found[key] for key in value}
            assert found == value, f"{group}.{name} is not what {option}.yaml says"


@pytest.mark.parametrize("group,option", EVERY)
def test_an_option_says_every_argument_of_its_constructor(group, option):
    node = OmegaConf.to_container(chosen(group, option)[group])
    calls = [call for _, call in targets("", node)]
    if group in COMPONENTS:
        assert calls, f"conf/{group}/{option}.yaml has no _target_"
    for call in calls:
        written = {key for key in call if not str(key).startswith("_")}
        assert written == {*inspect.signature(get_class(call["_target_"])).parameters}, call["_target_"]


def test_the_options_that_are_no_component_are_the_settings():
    config = compose()
    assert {*config} - {*COMPONENTS, *(OPTIONS.keys() - {"calibration"})} == {*Settings.model_fields}
    assert {*config.scope} == {*ScopeOptions.model_fields}
    for option in OPTIONS["calibration"]:
        assert {*chosen("calibration", option).calibration} == {*Calibration.model_fields}
    assert isinstance(read(config), Settings)


def uncommented(text: str) -> Iterator[str]:
    """A header that says what the file is, and a comment on every line with a value: what a reader of conf/ relies on."""
    lines = text.splitlines()
    if not re.match(r"# \S", lines[0]):
        yield "1: no header"
    inside = ""  # Hydra's own sections explain themselves
    for number, line in enumerate(lines, 1):
        if re.match(r"\w+:", line):
            inside = line.partition(":")[0]
        value = re.match(r"\s*[\w.@/]+:\s*[^\s#]", line)  # "key:" alone opens a mapping
        ours = inside not in ("defaults", "hydra") and "_target_:" not in line
        if value and ours and not re.search(r"\s# \S", line):
            yield f"{number}: {line.strip()}"


@pytest.mark.parametrize("file", FILES)
def test_an_option_explains_itself(file):
    assert [*uncommented((CONF / file).read_text())] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("scope: row  # where", ["1: no header"]),
        ("# A method.\n_target_: x.Y\nscope: row", ["3: scope: row"]),
        ("# A method.\nscope: row #where", ["2: scope: row #where"]),
        ("# Options.\nouter:\n  inner: 'a#b'", ["3: inner: 'a#b'"]),
        ("# Options.\ndefaults:\n  - x: y\nhydra:\n  a: b\nouter:  # of it\n  inner: [a]  # of that", []),
    ],
)
def test_a_missing_comment_is_found(text, found):
    assert [*uncommented(text)] == found


# --- experiments ------------------------------------------------------------------------------------------------------


def test_there_are_experiments():
    assert EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_its_command_and_can_be_built(name):
    first, *rest = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_"
    header = list(itertools.takewhile(lambda line: line.startswith("#"), rest))
    assert any(re.match(rf"# python run\.py (-m )?experiment={name}\b", line) for line in header)
    if any("hydra/sweeper: optuna" in line for line in rest):
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    config = compose(f"experiment={name}")
    read(config)
    assert isinstance(assembled(f"experiment={name}"), Parts)
    assert config != compose(), "an experiment is a delta"


# --- what overrides mean ----------------------------------------------------------------------------------------------


def test_no_evaluation_is_an_empty_list():
    assert assembled("evaluation=[]", "model=tiny").evaluation == {}


def test_the_seed_and_the_sparsity_reach_those_who_read_them():
    for option in OPTIONS["calibration"]:
        config = compose("seed=7", "sparsity=0.3", f"calibration={option}")
        assert config.calibration.seed == 7, option
        assert config.pattern.sparsity == 0.3
    assert compose("seed=7", "calibration.seed=5").calibration.seed == 5


def test_several_options_of_several_groups_make_a_grid():
    words = ["model=tiny", "method=magnitude,wanda", "pattern=unstructured,2of4", "sparsity=0.5,0.6"]
    parsed = OverridesParser.create().parse_overrides(words)
    axes = [
        [f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line]
        for o in parsed
    ]
    points = list(itertools.product(*axes))
    assert len(points) == 8
    parts = [assembled(*point) for point in points]
    assert {type(p.method) for p in parts} == {Magnitude, Wanda}
    # 2-of-4 does not read the sparsity, so its two points are one
    assert len({key(*point) for point in points}) == 2 * (2 + 1)


def test_a_pattern_of_groups_does_not_read_the_sparsity():
    assert key("pattern=2of4", "sparsity=0.7") == key("pattern=2of4")
    parts = assembled("pattern=2of4", "sparsity=0.7", "model=tiny")
    assert parts.method.asked(Site(0, "x", "mlp"), parts.pattern) == 0.5


# --- what comes out ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switch:
    routes: Mapping[str, Any]

    def needs(self, site): ...

    def asked(self, site, pattern): ...

    def prune(self, layer, pattern, stats): ...


def test_a_value_nested_in_a_mapping_stays_what_it_is():
    """Hydra 1.3 with its default conversion hands over a DictConfig in the place of `routes["mlp"]`."""
    routes = {"mlp": {"_target_": "sparsity.methods.Wanda", "scope": "row"}}
    method = {"_target_": f"{__name__}.Switch", "routes": routes}
    parts = components(compose("model=tiny")) | {"method": method}
    check_targets(parts, [__name__])
    built = build(parts).method
    assert type(built) is Switch
    assert type(built.routes) is dict
    assert built.routes["mlp"] == Wanda("row")
    assert type(built.routes["mlp"]) is Wanda


def test_components_are_what_their_group_says():
    parts = assembled("model=tiny", "method=wanda")
    assert isinstance(parts.method, Wanda)
    assert parts.method == Wanda("row")
    for part, members in ((parts.method, Method), (parts.pattern, Pattern)):
        assert all(hasattr(part, name) for name in vars(members) if not name.startswith("_"))

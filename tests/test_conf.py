"""The configuration: every option is one complete, commented constructor call; foreign code is refused before it is imported."""

from __future__ import annotations

import csv
import inspect
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from sparsity.core import Method, Pattern, Site, UserError
from sparsity.methods import Magnitude, Wanda
from sparsity.runs.build import COMPONENTS, Parts, build, check_targets, components, targets
from sparsity.runs.key import run_key
from sparsity.runs.settings import Calibration, ScopeOptions, Settings, read

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
OPTIONS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name not in ("hydra", "experiment")
}
EVERY = [(group, option) for group, names in OPTIONS.items() for option in names]
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
FILES = [f"{group}/{option}.yaml" for group, option in EVERY] + ["config.yaml"]
CPU = torch.device("cpu")


@cache
def compose(*overrides: str) -> DictConfig:
    """What `python run.py <overrides>` composes. Shared by the tests: read it, do not write to it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def chosen(group: str, option: str) -> DictConfig:
    return compose(f"{group}=[{option}]" if group == "evaluation" else f"{group}={option}")


def assembled(*overrides: str) -> Parts:
    parts = components(compose(*overrides))
    check_targets(parts, [])
    return build(parts)


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
    if group == "evaluation":
        assert [*written] == [option]
        assert [*config[group]] == [option]
    for name, value in written.items():
        if name != "defaults" and not (isinstance(value, str) and "${" in value):
            assert config[group][name] == value, f"{group}.{name} is not what {option}.yaml says"


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


# --- when two runs are the same ---------------------------------------------------------------------------------------


def key(*overrides: str, device: torch.device = CPU) -> str:
    config = compose("model=tiny", *(word for word in overrides if word != "model=tiny"))
    options = components(config)
    classes, parts = check_targets(options, [*config.allow]), build(options)
    return run_key(read(config), options, [*parts.model.files(), *parts.dataset.files()], device, classes)


MATTERS = [
    "model.seed=1",
    "dataset=wikitext2",
    "method=magnitude",
    "method.scope=layer",
    "pattern=2of4",
    "sparsity=0.6",
    "seed=1",
    "dtype=bfloat16",
    "layer_error=true",
    "save=true",
    "scope.roles=[mlp]",
    "scope.last_blocks=1",
    "scope.skip=[down_proj]",
    "calibration.seed=2",
    "calibration.num_sequences=8",
    "calibration.seqlen=64",
    "calibration.batch_size=2",  # rounding
    "calibration.propagate=dense",
    "evaluation=[]",
    "evaluation.perplexity.windows=3",
    "evaluation.perplexity.seqlen=128",
    "evaluation.perplexity.batch_size=2",
]
MATTERS_NOT = ["name=other", "plan=true", "rerun=true", "allow=[other]", "device=cpu"]


@pytest.mark.parametrize("override", MATTERS)
def test_another_run_has_another_key(override):
    assert key(override) != key()


def test_no_two_runs_share_a_key():
    assert len({key(override) for override in MATTERS}) == len(MATTERS)


@pytest.mark.parametrize("override", MATTERS_NOT)
def test_the_same_run_has_the_same_key(override):
    assert key(override) == key()


def test_every_setting_is_known_to_matter_or_not():
    read_through = {"sparsity", "seed"}  # by the components: both are in the table
    tested = {re.split(r"[.=]", override)[0] for override in (*MATTERS, *MATTERS_NOT)}
    assert tested >= {*Settings.model_fields} | read_through


def test_a_seed_that_nobody_reads_does_not_matter():
    assert key("seed=1", "calibration.seed=0") == key()


def test_who_watches_does_not_matter_and_the_kind_of_device_does():
    config = compose("model=tiny")
    settings, parts = read(config), components(config)
    watched = parts | {"tracker": {"_target_": "sparsity.runs.tracking.Another"}}
    assert run_key(settings, watched, [], CPU, []) == run_key(settings, parts, [], CPU, [])
    keys = [run_key(settings, parts, [], torch.device(name), []) for name in ("cpu", "cuda:0", "cuda:1")]
    assert keys[0] != keys[1] == keys[2]


def test_a_file_that_changed_is_another_run(tmp_path):
    files = {name: tmp_path / f"{name}.txt" for name in ("calibration", "evaluation")}
    words = ["dataset=text", *(f"dataset.{name}={file}" for name, file in files.items())]
    for file in files.values():
        file.write_text("one")
    keys = [key(*words)]
    for file in files.values():
        file.write_text("another")
        keys.append(key(*words))
    assert len({*keys}) == 3


def test_code_that_changed_is_another_run(tmp_path, monkeypatch):
    file = tmp_path / "a_users_method.py"
    file.write_text("class Mine: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    cls = get_class("a_users_method.Mine")
    settings, parts = read(compose("model=tiny")), components(compose("model=tiny"))
    before = run_key(settings, parts, [], CPU, [cls])
    assert before != run_key(settings, parts, [], CPU, [])
    file.write_text("class Mine: ...  # with another thought\n")
    assert run_key(settings, parts, [], CPU, [cls]) != before


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path, monkeypatch) -> Callable[[], bool]:
    """Packages `foreign` and `sparsity_foreign`, each with a class Thing. Returns whether anything of them was ever run."""
    traces = tmp_path / "imported"
    for package in ("foreign", "sparsity_foreign"):
        folder = tmp_path / package / "deep"
        folder.mkdir(parents=True)
        trace = f"import pathlib\npathlib.Path({str(traces)!r}).touch()\n"
        (tmp_path / package / "__init__.py").write_text(trace)
        (folder / "__init__.py").write_text("class Thing:\n    def __init__(self, method=None): self.method = method\n")
        for module in (package, f"{package}.deep"):
            monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return traces.exists


THING = {"_target_": "foreign.deep.Thing"}
OURS = {"_target_": "sparsity.methods.Wanda", "scope": "row"}
SMUGGLED = {
    "method": THING,
    "method.routes.mlp": {"routes": {"attention": OURS, "mlp": THING}},
    "evaluation.1": [OURS, THING],
    "evaluation.a.0.0": {"a": [[THING]]},
    "pattern.plain": {"plain": THING},
}


@pytest.mark.parametrize("path", SMUGGLED)
def test_a_foreign_class_is_refused_wherever_it_stands_before_it_is_imported(path, foreign):
    with pytest.raises(UserError, match=r"foreign\.deep\.Thing is refused: expected a class of sparsity") as refused:
        check_targets({path.partition(".")[0]: SMUGGLED[path]}, [])
    assert str(refused.value).startswith(f"{path}._target_=")
    assert "allow=[foreign]" in str(refused.value)
    assert not foreign()
    assert "foreign" not in sys.modules


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.nn.Linear",
        "sparsity_foreign.deep.Thing",
        "foreign.sparsity.Thing",
        "Sparsity.methods.Wanda",
        "",
    ],
)
@pytest.mark.parametrize("allow", [[], ["other", "sparsity_for", "foreig"]])
def test_what_is_not_ours_is_refused(target, allow, foreign):
    with pytest.raises(UserError, match=re.escape(f"method._target_={target} is refused")):
        check_targets({"method": {"_target_": target}}, allow)
    assert not foreign()


@pytest.mark.parametrize("target", ["sparsity.stream.nn.Linear", "sparsity.runs.environment.subprocess.Popen"])
def test_ours_is_no_way_round_to_another_package(target):
    """A module of ours holds the names that it imported."""
    with pytest.raises(UserError, match=re.escape(f"method._target_={target}")):
        check_targets({"method": {"_target_": target}}, [])


@pytest.mark.parametrize("name", ["runs.store.Path", "linalg.Tensor", "runs.key.Settings.model_fields"])
def test_a_name_that_we_imported_is_no_class_of_ours(name):
    with pytest.raises(UserError, match=re.escape(f"method._target_=sparsity.{name}")):
        check_targets({"method": {"_target_": f"sparsity.{name}"}}, [])


@pytest.mark.parametrize("switch", [{"_partial_": True}, {"_args_": ["row"]}, {"_recursive_": False}])
def test_a_target_is_called_with_its_options_and_nothing_else(switch):
    with pytest.raises(UserError, match=rf"method\.{next(iter(switch))} is refused"):
        check_targets({"method": OURS | switch}, [])


def test_an_allowed_package_may_be_named(foreign):
    parts = {"method": THING | {"method": OURS}}
    assert [cls.__name__ for cls in check_targets(parts, ["foreign"])] == ["Thing", "Wanda"]
    assert foreign()  # so the trace of an import does show


def test_what_is_ours_but_does_not_exist_is_named():
    for target in ("sparsity.methods.Wonder", "sparsity.nowhere.Wanda", "sparsity.methods"):
        with pytest.raises(UserError, match=re.escape(f"method._target_={target} cannot be imported")):
            check_targets({"method": {"_target_": target}}, [])


def test_the_guard_reads_what_interpolations_say(monkeypatch, foreign):
    monkeypatch.setenv("A_TARGET", "foreign.deep.Thing")
    config = OmegaConf.merge(compose(), {"method": {"_target_": "${oc.env:A_TARGET}"}})
    with pytest.raises(UserError, match=r"foreign\.deep\.Thing is refused"):
        check_targets(components(config), [])
    assert not foreign()


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
    parts = assembled("model=tiny")
    assert isinstance(parts.method, Wanda)
    assert parts.method == Wanda("row")
    for part, members in ((parts.method, Method), (parts.pattern, Pattern)):
        assert all(hasattr(part, name) for name in vars(members) if not name.startswith("_"))


# --- a user's own method ----------------------------------------------------------------------------------------------

MINE = '''
from dataclasses import dataclass
from sparsity.core import Criterion


@dataclass(frozen=True)
class Alternate(Criterion):
    """Scores rise with the place in the row, so the first inputs go."""

    scope: str
    slope: float

    def score(self, layer, stats):
        return layer.weight_OI.new_ones(layer.weight_OI.shape).cumsum(1) * self.slope
'''


@pytest.fixture
def laboratory(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A folder outside the repository with a method and its option; runs `python run.py` from yet another folder."""
    package, option, elsewhere = tmp_path / "lab" / "my_lab", tmp_path / "lab" / "conf" / "method", tmp_path / "cwd"
    for folder in (package, option, elsewhere):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(MINE)
    (option / "mine.yaml").write_text("_target_: my_lab.mine.Alternate\nscope: row\nslope: 1.0\n")
    text = " ".join(str(number**2) for number in range(2000))
    (elsewhere / "a.txt").write_text(text)
    (elsewhere / "b.txt").write_text(text[::-1])
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path / "lab"),
        "SPARSITY_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "run.py"), "--config-dir", str(tmp_path / "lab" / "conf"), *words]
        command += ["model=tiny", "device=cpu", "dataset=text", "dataset.calibration=a.txt", "dataset.evaluation=b.txt"]
        command += ["evaluation=[]", "calibration.seqlen=32", f"hydra.run.dir={tmp_path / 'out'}"]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    return run


def test_a_users_own_method_runs_from_outside(laboratory, tmp_path):
    done = laboratory("method=mine", "allow=[my_lab]")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out" / "layers.csv").open()))
    assert {row["method"] for row in rows} == {"mine"}
    assert {row["sparsity_found"] for row in rows} == {"0.5"}
    assert len(rows) == 14


def test_a_users_own_method_must_be_allowed(laboratory, tmp_path):
    done = laboratory("method=mine")
    assert done.returncode == 1
    assert "method._target_=my_lab.mine.Alternate is refused" in done.stderr
    assert "allow=[my_lab]" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "out").exists()

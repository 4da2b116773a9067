"""`python run.py help ...` explains every group, option and value of conf/, without torch, in lines that fit a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import ROOT, command
from composing import CONF, LISTS, OPTIONS, chosen, compose
from omegaconf import OmegaConf

from sparsity.options.declared import declared
from sparsity.options.help import explain
from sparsity.options.written import Written
from sparsity.user_error import UserError

GROUPS = [*OPTIONS, "experiment", "hydra/launcher"]
EVERY = [(group, file.stem) for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["run.py"])


def meaning(page: str, key: str) -> str:
    """What stands below `key=...` on a page, indented."""
    lines = page.splitlines()
    found = [i for i, line in enumerate(lines) if re.match(rf"  (\w+@)?{re.escape(key)}=", line)]
    assert found, f"{key} is not explained:\n{page}"
    at = found[-1]  # a description may name it too
    below = []
    for line in lines[at + 1 :]:
        if not line.startswith(" " * 6):
            break
        below.append(line.strip())
    return " ".join(below)


# --- everything of conf/ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_lists_its_options_with_a_line_each(group):
    page = explain([group], CONF)
    for option in (option for of, option in EVERY if of == group):
        assert re.search(rf"^  {group}={option} +\S.{{10,}}$", page, re.MULTILINE), option


@pytest.mark.parametrize("group,option", [pair for pair in EVERY if pair[0] in OPTIONS])
def test_an_option_explains_every_value_that_it_has(group, option):
    """What Hydra composes is the truth about the keys; every one has a meaning, and its type where a class declares one."""
    node = OmegaConf.to_container(chosen(group, option)[group])
    path = group
    if group in LISTS:
        ((name, node),) = node.items()
        path = f"{group}.{name}"
    page = explain([f"{group}={option}"], CONF)
    for key, value in node.items():
        if key.startswith("_"):
            assert str(value) in page
        elif key == "routes":  # a route is another option
            assert all(f"method@{path}.{key}.{route}=" in page for route in value)
        else:
            assert meaning(page, f"{path}.{key}")


def test_every_value_of_the_configuration_has_a_meaning_and_a_type():
    keys = Written((CONF,)).every
    assert len(keys) > 200
    assert [key.path for _, key in keys if not key.text] == []
    untyped = [key.path for option, key in keys if key.value and not (key.kind or key.group)]
    assert [path for path in untyped if not path.startswith("hydra.launcher.")] == []  # Hydra's class


def test_the_index_names_every_group_and_every_value_with_its_meaning():
    page = explain([], CONF)
    for name in [*OPTIONS, "experiment", *compose()]:
        assert re.search(rf"^  {name} +\S.{{10,}}$", page, re.MULTILINE), name
    for way in ("help method ", "help method=pursuit ", "help sparsity "):
        assert way in page


def test_each_setting_of_the_root_can_be_asked_for():
    for key in Written((CONF,)).settings:
        assert key.text.split()[0] in explain([key.path], CONF)


@pytest.mark.parametrize("columns", [60, 80, 100, 300])
def test_no_line_is_wider_than_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    pages = [explain([], CONF), *(explain([word], CONF) for word in (*GROUPS, "scope", "damp"))]
    pages += [explain([f"{group}={option}"], CONF) for group, option in EVERY]
    widths = [len(line) for page in pages for line in page.splitlines()]
    assert max(widths) <= min(columns, 100)


def test_a_command_of_a_description_can_be_copied():
    """It keeps a line of its own, which a backslash continues."""
    page = explain(["evaluation=lm_eval"], CONF).replace(" \\\n", " ")
    assert re.search(
        r"^ +python run.py evaluation=\[lm_eval\] +evaluation.lm_eval.tasks_path=\S+ +evaluation", page, re.M
    )


@pytest.mark.parametrize("group,option", EVERY)
def test_a_paper_that_a_file_names_is_linked(group, option):
    cited = re.findall(r"arXiv (\d{4}\.\d{5})", (CONF / group / f"{option}.yaml").read_text().split("_target_")[0])
    for number in cited[:1]:
        assert f"https://arxiv.org/abs/{number}" in explain([f"{group}={option}"], CONF)


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=pursuit"], ["sparsity.methods.Pursuit", "method@method.base=wanda", "method.rounds=6", "whole number"]),
        (["method=pursuit,wanda"], ["method=pursuit ", "method=wanda "]),
        (["evaluation=[perplexity,cost]"], ["evaluation.perplexity.seqlen=512", "evaluation.cost.repeats=5"]),
        (["calibration"], ["calibration.seqlen=512", ">= 2; 2048 with calibration=paper", "The default is calibration=default"]),
        (["tfidf"], ["tfidf.num_topics=null", "64 with tfidf=topic", "by default seed"]),
        (["sparsity"], ["sparsity=0.5", "number, in [0, 1)"]),
        (["sparsity=0.7"], ["sparsity=0.5", "number, in [0, 1)"]),
        (["scope"], ["scope.roles=[attention,mlp]", "scope.skip=[]", "scope.lm_head=false"]),
        (["refine.epochs"], ["refine.epochs=8", "in refine=block"]),
        (["epochs"], ["refine.epochs=8", "recover.epochs=8"]),
        (["wanda"], ["method=wanda "]),
        (["none"], ["corrector=none", "refine=none", "recover=none"]),
        (["method@method.base=sparsegpt"], ["method=sparsegpt "]),
        (["method@method.base"], ["method@method.base=wanda", "method=pursuit"]),
        (["dtype"], ["auto | float32 | bfloat16 | float16"]),
        (["model=local"], ["model.path=...", "has to be set"]),
        (["dataset=wikitext2_raw"], ["the environment variable WIKITEXT2_RAW, else wikitext2_raw"]),
        (["reference=hub"], ["reference.name=...", "reference.stream=false"]),
        (["experiment=best_quality"], ["It chooses method=pursuit", "calibration.written=80"]),
        (["experiment=allocation"], ["It builds on experiment=protocol"]),
        (["method", "corrector"], ["method=wanda", "corrector=optimal"]),
    ],
)  # fmt: skip
def test_what_is_asked_is_explained(words, said):
    page = explain(words, CONF)
    for text in said:
        assert text in page, page


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("corector", ["corector", "Did you mean: corrector", "Groups: model"]),
        ("sparsegp", ["Did you mean: method=sparsegpt"]),
        ("method=Wandaa", ["no method=Wandaa", "Did you mean: method=wanda", "magnitude"]),
        ("calibration.seqlenn", ["Did you mean: calibration.seqlen"]),
        ("xyzzy", ["no group, option or value of that name", "run.py help"]),
    ],
)
def test_an_unknown_word_gets_the_nearest_names(word, said):
    with pytest.raises(UserError) as caught:
        explain([word], CONF)
    for text in said:
        assert text in str(caught.value)


@pytest.mark.parametrize("words", [["help", "method=pursuit"], ["--help", "method"], ["help"], ["-h", "damp"]])
def test_help_is_a_command_that_ends_well(words, monkeypatch):
    ended = command(*words)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py")])  # the program that a page names
    assert ended.status == 0
    assert ended.out.rstrip("\n") == explain([word for word in words if "help" not in word and word != "-h"], CONF)


def test_help_on_nothing_known_is_a_mistake():
    ended = command("help", "corector")
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert "Did you mean: corrector" in ended.err
    assert ended.out == ""


def test_the_short_help_names_the_long_one():
    out = command("--help").out
    assert "help method=pursuit" in out
    assert len(out.splitlines()) < 140


def test_help_loads_neither_torch_nor_transformers():
    lines = (
        "import runpy, sys",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "for words in ([], ['method'], ['method=pursuit'], ['damp'], ['sparsity']):",
        "    sys.argv = ['run.py', 'help', *words]",
        "    try:",
        f"        runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')",
        "    except SystemExit as end:",
        "        assert not end.code",
        "print([name for name in ('torch', 'transformers', 'datasets', 'pydantic') if name in sys.modules])",
    )
    ended = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"


# --- the user's own options -------------------------------------------------------------------------------------------

OWN_CLASS = '''
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal
from annotated_types import Ge, Interval
from pydantic import Field, PositiveInt
from elsewhere import Share

raise RuntimeError("help imports nothing")
Mode = Literal["fast", "exact", True]

@dataclass(frozen=True)
class Base:
    seed: int

@dataclass(frozen=True)
class Soft(Base):
    """Soft masks (Author et al., ICML 2031)."""

    streams: ClassVar[bool] = True
    heat: Annotated[float, Field(gt=0, le=1)]
    steps: "PositiveInt | None"
    width: Annotated[int, Ge(2), Field(multiple_of=8)]
    share: Share
    mode: Mode
    names: list[str]
    odd: Annotated[float, "a number that is odd"]
'''
OWN_FILE = """# Soft masks, to try things out. More words.
_target_: own_lab.soft.Soft
heat: 0.5   # how soft; 'a # inside'
steps: null # at most;
            # null: no end
width: 8    # inputs
share: 0.1  # of the weights
mode: fast  # which
names: ["a # b", c]  # of layers
odd: 3.0    # unusual
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_lab").mkdir()
    (tmp_path / "own_lab" / "__init__.py").write_text("")
    (tmp_path / "own_lab" / "soft.py").write_text(OWN_CLASS)
    (tmp_path / "elsewhere.py").write_text(
        "from typing import Annotated\nRange = dict\nShare = Annotated[float, Range(above=0, below=1, cap=5)]\n"
    )
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "soft.yaml").write_text(OWN_FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "conf"


def test_an_option_of_the_users_own_is_read_without_running_its_code(own):
    page = explain(["method=soft", "--config-dir", str(own)], CONF)
    assert re.search(r"method.heat=0.5 +number, in \(0, 1\]", page)
    assert re.search(r"method.steps=null +whole number, > 0, or null", page)
    assert re.search(r"method.width=8 +whole number, >= 2, a multiple of 8", page)
    assert re.search(r"method.share=0.1 +number, in \(0, 1\)", page)
    assert re.search(r"method.mode=fast +fast \| exact \| true", page)
    assert re.search(r'method.names=\["a # b",c\] +list of text', page)
    assert re.search(r"method.odd=3.0 +number, a number that is odd", page)
    assert meaning(page, "method.heat") == "how soft; 'a # inside'"
    assert meaning(page, "method.steps") == "at most; null: no end"
    assert meaning(page, "method.names") == "of layers"
    assert "Paper: Author et al., ICML 2031" in page
    assert [*declared("own_lab.soft.Soft").parameters] == [
        "seed",
        "heat",
        "steps",
        "width",
        "share",
        "mode",
        "names",
        "odd",
    ]


@pytest.mark.parametrize("harm", ["no such module", "no such class", "a syntax error"])
def test_an_option_whose_class_cannot_be_read_is_explained_by_its_file(own, harm):
    file = own.parent / "own_lab" / "soft.py"
    if harm == "no such module":
        (own / "method" / "soft.yaml").write_text(OWN_FILE.replace("own_lab.soft", "nowhere.soft"))
    elif harm == "no such class":
        (own / "method" / "soft.yaml").write_text(OWN_FILE.replace("Soft\n", "Hard\n"))
    else:
        file.write_text("def broken(:\n")
    page = explain(["method=soft", "--config-dir", str(own)], CONF)
    assert "Soft masks, to try things out. More words." in page
    assert meaning(page, "method.heat") == "how soft; 'a # inside'"


def test_a_group_shows_the_users_own_options_beside_the_others(own):
    page = explain([f"--config-dir={own}", "method"], CONF)
    assert re.search(r"method=soft +Soft masks, to try things out\.$", page, re.MULTILINE)
    assert "method=wanda" in page


def test_a_folder_that_is_none_is_said():
    with pytest.raises(UserError, match="--config-dir nope is no folder"):
        explain(["method", "--config-dir", "nope"], CONF)


# --- where what is said comes from ------------------------------------------------------------------------------------


@pytest.mark.parametrize("group,option", [pair for pair in EVERY if pair[0] in OPTIONS])
def test_a_value_is_written_as_the_file_has_it(group, option):
    """Typed behind a key, it means the same to YAML."""
    written = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    for key in Written((CONF,)).option(group, option).keys:
        found, parts = written, key.path.split(".")[len(group.split("/")) :]
        for part in parts:
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None and not isinstance(found, dict):
            assert yaml.safe_load(key.value) == found

"""A run's key counts the code that computes its numbers, and nothing else; so do the keys of what it keeps for other runs."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml
from commands import MEASURED, SMALL, Run, command, workplace
from composing import CONF, asked
from hydra.utils import get_class

from sparsity.allocation import Sensitivity
from sparsity.cache.entry import Entry
from sparsity.code import Code, code
from sparsity.core import Tap
from sparsity.evaluation import LMEval, Perplexity
from sparsity.groupings import Documents
from sparsity.runs import launch
from sparsity.stages.key import LIBRARIES, OUTSIDE, RUN, measurement_key, reference_key, statistics_key, writing_key
from sparsity.statistics import Gram, GroupedActivity, SquaredNorm

ROOT = CONF.parent
# What the files that count take from those that do not. None of it becomes a number: it decides, foretells, says or is told.
TAKEN = {
    "sparsity/code.py": set(),
    "sparsity/stages/key.py": {
        "inputs", "run_key", "reference_key", "statistics_key", "measurement_key", "writing_key",
    },
    "sparsity/stages/again.py": {"recorded", "why_again"},
    "sparsity/stages/resources.py": {"Needed", "needed", "rate"},
    "sparsity/options/mistakes.py": {"alternatives"},
    "sparsity/record/console.py": {"busy", "progress", "say", "table"},
    "sparsity/runs/preview.py": {"preview"},
    "sparsity/runs/together.py": {"local"},
    "sparsity/tracking/": {"About", "Outcome", "Tracker", "Watch", "run_id", "run_name", "summary", "tables"},
}  # fmt: skip
# Libraries that read, check, show or keep, and compute nothing.
NO_NUMBER = {
    "datasets", "filelock", "huggingface_hub", "hydra", "omegaconf", "platformdirs", "psutil", "pyarrow", "pydantic", "yaml",
}  # fmt: skip
# An edit of these repeats nothing.
NEVER = (
    "report/",
    "comparison/",
    "tracking/",
    "runs/errors.py",
    "runs/launch.py",
    "runs/sweeps.py",
    "record/console.py",
)


@pytest.fixture(scope="module")
def everything() -> Code:
    """The code of a run that would use all that the options of conf/ name."""
    files = [file for file in CONF.glob("*/*.yaml") if file.parent.name != "tracker"]
    nodes = [yaml.safe_load(file.read_text()) for file in files]
    nodes += [inner for node in nodes for inner in node.values() if isinstance(inner, dict)]  # evaluations have a name
    return code([RUN, *(node["_target_"] for node in nodes if "_target_" in node)], OUTSIDE)


def below(files: Any) -> set[str]:
    """Names below the package."""
    return {name.removeprefix("sparsity/") for name in files}


def counted(*words: str) -> set[str]:
    return below(asked(*words)["code"])


# --- a run ------------------------------------------------------------------------------------------------------------


def test_what_every_run_computes_with_counts():
    assert counted("method=sparsegpt") >= {
        "core.py", "engine.py", "linalg.py", "stream.py", "processes.py", "models/decoder.py", "methods/magnitude.py",
    }  # fmt: skip


def test_every_stage_counts():
    stages = {file.name for file in (ROOT / "sparsity" / "stages").glob("*.py")} - {"__init__.py"}
    assert {f"stages/{name}" for name in stages} == {name for name in counted() | below(OUTSIDE) if "stages/" in name}


@pytest.mark.parametrize(
    "words, used",
    [
        (["method=wanda"], True),
        (["method=hybrid"], True),  # a route
        (["method=dsnot"], True),  # its base
        (["method=magnitude", "allocation=sensitivity"], True),
        (["method=sparsegpt", "allocation=owl"], True),
        (["method=sparsegpt"], False),
        (["method=magnitude"], False),
        (["method=dsnot", "method@method.base=sparsegpt"], False),
    ],
)
def test_a_method_counts_for_the_runs_that_use_it(words, used):
    assert ("methods/wanda.py" in counted(*words)) == used


@pytest.mark.parametrize(
    "word, file",
    [
        ("corrector=optimal", "correctors/optimal.py"),
        ("corrector=optimal", "quadratic.py"),
        ("refine=block", "tuning.py"),
        ("recover=distill", "recover/distillation.py"),
        ("recover=distill", "predictions.py"),
        ("evaluation=[divergence]", "predictions.py"),
        ("evaluation=[lm_eval]", "evaluation/harness.py"),
        ("pattern=2of4", "patterns/n_of_m.py"),
        ("method=neuronrank_tfidf", "groupings/documents.py"),
        ("method=neuronrank_tfidf", "methods/tfidf.py"),
    ],
)
def test_what_an_option_names_counts_with_what_it_imports(word, file):
    without = counted("method=magnitude", "evaluation=[]")
    assert file not in without
    assert file in counted("method=magnitude", "evaluation=[]", word)


def test_what_shows_a_run_does_not_count(everything):
    files = below(everything.files)
    assert not [name for name in files for place in NEVER if name == place or name.startswith(place)]
    for place in {*NEVER, *below(OUTSIDE)}:
        assert (ROOT / "sparsity" / place).exists(), place


def test_nothing_that_becomes_a_number_is_taken_from_outside(everything):
    """Somebody has looked at every name that crosses the border. A new one is added to TAKEN, or its file leaves OUTSIDE."""
    found = defaultdict(set, {place: set() for place in OUTSIDE})
    for file in everything.files:
        for origin, name in taken(file):
            for place in OUTSIDE:
                if origin == place or (place.endswith("/") and origin.startswith(place)):
                    found[place].add(name)
    assert found == TAKEN


def taken(file: str) -> Iterator[tuple[str, str]]:
    """(file, name) of every name that a file of the package takes from another, at its first step; of a module, what is used."""
    tree = ast.parse((ROOT / file).read_text())
    folder = Path(file).parent
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [folder, *folder.parents][node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                module, origin = base / f"{alias.name}.py", base.with_suffix(".py")
                if (ROOT / module).exists():
                    bound = alias.asname or alias.name
                    uses = (leaf for leaf in ast.walk(tree) if isinstance(leaf, ast.Attribute))
                    yield from (
                        (str(module), leaf.attr)
                        for leaf in uses
                        if isinstance(leaf.value, ast.Name) and leaf.value.id == bound
                    )
                else:
                    yield str(origin if (ROOT / origin).exists() else base / "__init__.py"), alias.name


def test_every_library_computes_or_does_not(everything):
    others = everything.libraries - sys.stdlib_module_names
    assert others - LIBRARIES.keys() <= NO_NUMBER
    assert LIBRARIES.keys() <= others


def test_a_package_only_passes_on_what_it_imports():
    """So it is no loss that it does not count. sparsity/__init__.py asks torch for large pages, which changes no bit."""
    for file in (ROOT / "sparsity").rglob("*/__init__.py"):
        for statement in ast.parse(file.read_text()).body:
            words = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            listed = ast.unparse(statement).startswith("__all__ = [")
            assert words or listed or isinstance(statement, ast.ImportFrom), f"{file}: {ast.unparse(statement)}"


# --- what a run remembers ---------------------------------------------------------------------------------------------

WALK = {"stream.py", "processes.py", "core.py", "linalg.py", "models/decoder.py", "models/blocks.py", "models/files.py"}


def test_the_dense_models_answers_are_filed_under_the_evaluators_code_and_the_models_walk():
    its = below(reference_key(Perplexity(32, None, 1))["code"])
    assert its >= {
        "evaluation/perplexity.py",
        "evaluation/windows.py",
        "evaluation/walked.py",
        "datasets/tokens.py",
        *WALK,
    }
    assert not its & {"evaluation/divergence.py", "evaluation/lm_eval.py", "methods/wanda.py"}


def test_an_evaluator_that_a_function_defines_counts_with_its_file():
    class Mine: ...

    assert Path(__file__).name in reference_key(Mine())["code"]


def test_the_answers_to_tasks_are_filed_under_the_harness_and_its_version():
    its = reference_key(LMEval(["boolq"], None, None, None, 1, None, False, 0))
    assert below(its["code"]) >= {"evaluation/lm_eval.py", "evaluation/harness.py", "evaluation/task_files.py"}
    assert "lm-eval" in its


def test_statistics_are_filed_under_the_code_of_all_statistics_and_that_of_the_walk():
    """The key counts all statistics, so that runs which ask for different ones share a walk."""
    its = statistics_key({None: [Tap(SquaredNorm())]})
    every = {
        f"{room}/{file.name}"
        for room in ("statistics", "groupings")
        for file in (ROOT / "sparsity" / room).glob("*.py")
    }
    assert below(its["code"]) >= {"cache/statistics.py", "record/folders.py", *WALK, *every}
    assert "scikit-learn" in its  # finds topics
    assert its == statistics_key({None: [Tap(GroupedActivity(Documents())), Tap(Gram())]})


def test_a_users_statistic_and_grouping_count(tmp_path, monkeypatch):
    (tmp_path / "a_users_fold.py").write_text("class Mine:\n    grouping = None")
    (tmp_path / "a_users_grouping.py").write_text("class Mine: ...")
    monkeypatch.syspath_prepend(tmp_path)
    fold, grouping = get_class("a_users_fold.Mine"), get_class("a_users_grouping.Mine")
    assert statistics_key({None: [Tap(fold())]})["code"].keys() >= {"a_users_fold.py"}
    assert statistics_key({None: [Tap(GroupedActivity(grouping()))]})["code"].keys() >= {"a_users_grouping.py"}


def test_an_allocations_measurement_is_filed_under_what_measures_it():
    its = below(measurement_key(Sensitivity("layer", 0.5, 1, 0.1))["code"])
    assert its >= {"allocation/sensitivity.py", "allocation/probe.py", "methods/wanda.py", "predictions.py", *WALK}
    assert "allocation/owl.py" not in its


def test_written_text_is_filed_under_what_writes_it():
    assert below(writing_key()["code"]) == {"models/writing.py"}


# --- what runs, counts ------------------------------------------------------------------------------------------------


COMPOSITIONS = {
    "a route, and everything after": (
        "method=hybrid", "corrector=optimal", "refine=block", "refine.epochs=1", "recover=distill", "recover.epochs=1",
        "evaluation=[perplexity,divergence]", "evaluation.divergence.seqlen=32", "save=true",
        "calibration.held_out=1", "calibration.batch_size=1",
    ),
    "a successor, and what is remembered": (
        "method=dsnot", "corrector=greedy", "allocation=sensitivity", "calibration.propagate=dense", "calibration.written=1",
        "scope.skip=[q_proj]",
    ),
}  # fmt: skip
REMEMBERED = {  # a file of its code
    "Perplexity": "evaluation/perplexity.py",
    "Divergence": "predictions.py",
    "divergence at 0.6 by wanda of each role alone, 1 sequences": "allocation/probe.py",
    "text written, 32 tokens each, seed 0": "models/writing.py",
    "statistics": "stream.py",
}


@pytest.fixture(scope="module", params=COMPOSITIONS.values(), ids=[*COMPOSITIONS])
def executed(request, tmp_path_factory) -> tuple[Run, set[str]]:
    """A run, and the files of the package in which a function was called between its configuration and its result."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name != "<module>":
            files.add(frame.f_code.co_filename)

    inner = launch.run

    def watched(*arguments: Any) -> Any:
        sys.setprofile(note)
        try:
            return inner(*arguments)
        finally:
            sys.setprofile(None)

    with workplace(tmp_path_factory.mktemp("executed")), pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "run", watched)
        ended = command(*SMALL, *MEASURED, "hydra.run.dir=run", *request.param)
        assert ended.status == 0, ended.err
        yield (
            Run(Path("run").absolute()),
            {Path(file).relative_to(ROOT).as_posix() for file in files if Path(file).is_relative_to(ROOT / "sparsity")},
        )


def test_no_function_runs_that_the_key_does_not_count(executed):
    run, files = executed
    assert len(files) > 20
    its = run.environment["inputs"]["code"]
    strange = {file for file in files - its.keys() if not file.startswith(tuple(OUTSIDE))}
    assert strange <= {"sparsity/record/numbers.py"}  # a tracker is told numbers alone


def test_what_is_remembered_says_of_what_code_it_is(executed):
    run, _ = executed
    kept = {}
    for file in (run.folder.parent / "cache").rglob("*.safetensors"):
        with closing(Entry(file)) as entry:
            about = entry.about
        kept[str(about.get("evaluator", "statistics")).partition("(")[0]] = about.get("walk", about)["code"]
    assert len(kept) in (2, 4)
    for name, its in kept.items():
        assert REMEMBERED[name] in below(its)

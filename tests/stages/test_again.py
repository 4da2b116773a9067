"""When a run is computed again, or an interrupted one is not resumed, one line says which of its inputs changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import MEASURED, ROOT, SMALL, UNMEASURED, command, folders
from composing import asked
from interrupted import FOUR, killed

from sparsity.stages import key
from sparsity.stages.again import difference, recorded, why_again

QUICK = ("method=wanda", UNMEASURED)
NOW = {
    "options": {"method": {"_target_": "sparsity.methods.Wanda", "scope": "row"}, "calibration": {"seqlen": 64}},
    "files": {"/texts/a.txt": [10, 1], "/texts/b.txt": [20, 2]},
    "device": "cpu",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "code": {"sparsity/core.py": "1", "sparsity/linalg.py": "2", "sparsity/methods/wanda.py": "3"},
}


def changed(kind: str, **parts) -> dict:
    return NOW | {kind: NOW[kind] | parts}


# --- in words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "earlier, words",
    [
        (NOW, ""),
        (changed("code", **{"sparsity/linalg.py": "0"}), "the code of sparsity/linalg.py changed"),
        # what a file newly imports says less than the file that imports it
        (
            changed("code", **{"sparsity/linalg.py": "0", "sparsity/old.py": "5"}),
            "the code of sparsity/linalg.py changed",
        ),
        (changed("code", **{"sparsity/old.py": "5"}), "the code of sparsity/old.py changed"),
        (changed("files", **{"/texts/a.txt": [10, 0]}), "/texts/a.txt changed"),
        (changed("versions", torch="2.12.0"), "torch is 2.13.0, was 2.12.0"),
        (NOW | {"device": "cuda"}, "device is cpu, was cuda"),
        (changed("options", calibration={"seqlen": 32}), "calibration.seqlen is 64, was 32"),
        (changed("options", calibration={}), "calibration.seqlen is 64, was not there"),
        (changed("options", calibration={"seqlen": 64, "prompt": 1}), "calibration.prompt is gone, was 1"),
        # other digests of code come with another Python
        (
            changed("versions", python="3.12.1") | {"code": {name: "0" for name in NOW["code"]}},
            "python is 3.11.7, was 3.12.1",
        ),
        (
            changed("options", calibration={"seqlen": 32}) | {"code": NOW["code"] | {"sparsity/core.py": "0"}},
            "calibration.seqlen is 64, was 32; the code of sparsity/core.py changed",
        ),
        ({}, "this program changed, which did not record then what its results depend on"),
    ],
)
def test_a_difference_is_named(earlier, words):
    assert difference(earlier, NOW) == words


def test_of_many_differences_a_few_are_named():
    code = {f"sparsity/{number}.py": "0" for number in range(5)}
    now = {name: "1" for name in code}
    assert difference(NOW | {"code": code}, NOW | {"code": now}) == (
        "the code of sparsity/0.py, sparsity/1.py, sparsity/2.py, 2 more changed"
    )


# --- since when -------------------------------------------------------------------------------------------------------


def left(
    root: Path, name: str, time: str, inputs: dict | None, *words: str, finished: bool = True, journal: bool = False
) -> None:
    """A run's folder, as far as it matters here."""
    folder = root / name
    folder.mkdir(parents=True)
    about = {"time": time} | ({} if inputs is None else recorded(words, inputs))
    (folder / "environment.json").write_text(json.dumps(about))
    if finished:
        (folder / "result.json").write_text(json.dumps({"overrides": words}))
    if journal:
        (folder / "journal").mkdir()


def test_the_newest_run_of_the_same_command_is_compared_with(tmp_path):
    left(tmp_path, "a", "2026-01-03", changed("versions", torch="1"), "method=wanda", "seed=1")
    left(
        tmp_path, "b/0", "2026-01-05", changed("versions", torch="2"), "seed=1", "method=wanda", "rerun=true", "name=x"
    )
    left(tmp_path, "c", "2026-01-04", changed("versions", torch="3"), "method=wanda", "seed=1")
    left(tmp_path, "d", "2026-01-06", changed("versions", torch="4"), "method=wanda", "seed=2")
    left(tmp_path, "e", "2026-01-07", changed("versions", torch="5"), "method=wanda", "seed=1", finished=False)
    told = why_again(tmp_path, ["method=wanda", "seed=1", "tracker=none"], NOW)
    assert told == f"computed again: since {tmp_path}/b/0, torch is 2.13.0, was 2"
    assert why_again(tmp_path, ["method=wanda", "seed=1", "sparsity=0.6"], NOW) is None
    assert why_again(tmp_path / "nowhere", ["method=wanda"], NOW) is None


def test_an_interrupted_run_is_compared_with_if_it_left_a_journal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    left(tmp_path, "a", "2026-01-01", changed("versions", torch="1"), "seed=1")
    left(tmp_path, "b", "2026-01-02", changed("versions", torch="2"), "seed=1", finished=False, journal=True)
    assert why_again(tmp_path, ["seed=1"], NOW) == "not resumed: since b, torch is 2.13.0, was 2"


def test_nothing_is_said_where_a_run_of_these_inputs_is_resumed(tmp_path):
    left(tmp_path, "a", "2026-01-01", NOW, "seed=1", finished=False, journal=True)
    left(tmp_path, "b", "2026-01-02", changed("versions", torch="2"), "seed=1")
    assert why_again(tmp_path, ["seed=1"], NOW) is None


@pytest.mark.parametrize("inputs", [None, {}, {"options": {}}])
def test_a_run_that_recorded_no_inputs_explains_that(tmp_path, inputs):
    left(tmp_path, "a", "2026-01-01", inputs, "seed=1")
    told = why_again(tmp_path, ["seed=1"], NOW)
    assert told is not None
    assert "did not record" in told


@pytest.mark.parametrize("content", ["", "[]", '{"overrides": 3}', '{"overrides": [1], "inputs": []}'])
def test_a_damaged_record_explains_nothing(tmp_path, content):
    left(tmp_path, "a", "2026-01-01", NOW, "seed=1", finished=False, journal=True)
    (tmp_path / "a" / "environment.json").write_text(content)
    assert why_again(tmp_path, ["seed=1"], NOW) is None


# --- as a person sees it ----------------------------------------------------------------------------------------------


def test_a_run_says_which_file_changed(work):
    words = (*SMALL, *QUICK)
    first = command(*words)
    assert "computed again" not in first.out
    [folder] = folders()
    text = work / "calibration.txt"
    text.write_text(text.read_text() + " more")
    assert f"computed again: since outputs/runs/{folder.name}, calibration.txt changed\n" in command(*words).out
    assert "finished earlier" in command(*words).out
    assert "computed again" not in command(*words, "rerun=true").out  # it was asked for
    assert "computed again" not in command(*words, "sparsity=0.6").out  # another command


def test_an_interrupted_run_says_why_it_is_not_resumed(work, monkeypatch):
    killed(monkeypatch, *QUICK, at="layers.2.mlp.up_proj")
    [folder] = folders()
    version = key.version
    monkeypatch.setattr(key, "version", lambda name: "0.1" if name == "torch" else version(name))
    ended = command(*SMALL, *FOUR, *QUICK)
    assert ended.status == 0, ended.err
    assert f"not resumed: since outputs/runs/{folder.name}, torch is 0.1, was {version('torch')}\n" in ended.out
    assert "resuming at block" not in ended.out


def test_a_resumed_run_says_nothing_of_it(work, monkeypatch):
    killed(monkeypatch, *QUICK, at="layers.2.mlp.up_proj")
    ended = command(*SMALL, *FOUR, *QUICK)
    assert "resuming at block" in ended.out
    assert "not resumed" not in ended.out
    assert "computed again" not in ended.out


@pytest.mark.slow
def test_an_edit_repeats_the_runs_whose_numbers_it_can_change(work, tmp_path_factory):
    """In a copy of this checkout, in processes of their own."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("sparsity", "conf"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "run.py", checkout)

    def edit(file: str, old: str, new: str) -> None:
        path = checkout / "sparsity" / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    def run() -> str:
        line = (sys.executable, str(checkout / "run.py"), *SMALL, *MEASURED, "method=wanda")
        done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(checkout)})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "finished earlier" not in run()
    for file in ("report/page.py", "tracking/watch.py", "runs/errors.py", "record/console.py"):
        edit(file, "import annotations\n", "import annotations\n\nEDITED = True\n")
    edit("methods/wanda.py", '"""', '"""In other words. ')
    edit("linalg.py", "import annotations\n", "import annotations\n\n# a comment\n")
    edit("methods/sparsegpt.py", "import annotations\n", "import annotations\n\nEDITED = True\n")
    assert "finished earlier" in run()
    edit("methods/wanda.py", "import annotations\n", "import annotations\n\nEDITED = True\n")
    assert "the code of sparsity/methods/wanda.py changed\n" in run()


def test_what_a_run_records_is_what_its_key_is_made_of():
    its = asked()
    assert json.loads(json.dumps(recorded(["a=b"], its))) == {"overrides": ["a=b"], "inputs": its}

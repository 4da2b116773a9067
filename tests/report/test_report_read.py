"""The report reads finished runs, also old ones, and names the unfinished and the damaged ones."""

from __future__ import annotations

import json

import pytest
from reports import finished, gathered, save

from sparsity.core import UserError
from sparsity.report.build import NAMES, build, main
from sparsity.report.protocol import differences, protocol
from sparsity.report.read import read


def test_a_run_is_read_once_however_often_it_is_named(tmp_path):
    finished(tmp_path / "a" / "0")
    runs, problems = read([tmp_path, tmp_path / "a", tmp_path / "a" / "0"])
    assert len(runs) == 1
    assert problems == []


def test_an_unfinished_run_is_named(tmp_path):
    finished(tmp_path / "done")
    (finished(tmp_path / "half") / "result.json").unlink()
    runs, problems = read([tmp_path])
    assert len(runs) == 1
    assert [(problem.where, problem.what) for problem in problems] == [
        ((tmp_path / "half").as_posix(), "unfinished: it has no result.json")
    ]


@pytest.mark.parametrize("content", ["{", "[1]", "", '"text"', "\udcff"])
def test_a_damaged_result_is_named(tmp_path, content):
    finished(tmp_path / "done")
    (finished(tmp_path / "bad") / "result.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    runs, [problem] = read([tmp_path])
    assert len(runs) == 1
    assert "result.json is damaged" in problem.what


@pytest.mark.parametrize(
    "name,content",
    [
        ("windows.csv", "window,nll_dense,nll_pruned\n0,3.0,nan\n"),
        ("windows.csv", "window,nll_dense,nll_pruned\n0,3.0\n"),
        ("divergence.csv", "window,tokens,kl\n0,511,nan\n"),
        ("layers.csv", "block,name\n0,a,b\n"),
        ("config.yaml", "a: [1"),
        ("config.yaml", "- a list"),
        ("environment.json", "[]"),
    ],
)
def test_another_damaged_file_is_named_and_the_run_is_kept(tmp_path, name, content):
    (finished(tmp_path / "run") / name).write_text(content)
    [run], [problem] = read([tmp_path])
    assert problem.what.startswith(f"{name} is damaged")
    assert run.tables["windows"] == [] if name == "windows.csv" else len(run.tables["windows"]) == 24
    build([tmp_path], tmp_path)  # and the page can be made of it


def test_a_text_may_hold_any_separator_of_lines(tmp_path):
    folder = finished(tmp_path)
    save(folder, "generations", [{"prompt": "a\x1d\x0b\u2028b", "dense": "c\nd", "pruned": "\x85"}])
    [run], problems = read([tmp_path])
    assert problems == []
    assert run.tables["generations"] == [{"prompt": "a\x1d\x0b\u2028b", "dense": "c\nd", "pruned": "\x85"}]


def test_a_result_of_an_older_version_has_fewer_fields(tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"perplexity": {"pruned": 50.0}}))
    build([tmp_path], tmp_path)
    assert "50.00" in (tmp_path / "report.md").read_text()
    [group] = gathered(tmp_path)
    assert set(group.conditions.values()) >= {"not recorded", "perplexity not measured"}


def test_odd_values_in_a_result_are_no_reason_to_fail(tmp_path):
    finished(
        tmp_path, perplexity="high", seconds=[1], evaluation="none", layers=3, choices=["wanda"], dataset="x", model=2
    )
    build([tmp_path], tmp_path)
    [group] = gathered(tmp_path)
    assert "perplexity.pruned" not in group.numbers[0]


def test_only_runs_of_one_protocol_are_grouped(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b", method="magnitude")
    other = {"seqlen": 256, "windows": 24, "dense": 30.0, "pruned": 40.0}
    finished(tmp_path / "c", evaluation={"perplexity": other})
    first, second = gathered(tmp_path)
    assert [len(first.runs), len(second.runs)] == [2, 1]
    assert differences(first.conditions, second.conditions) == ["window length: 512 tokens and 256 tokens"]


@pytest.mark.parametrize(
    "changed,condition",
    [
        ({"model": {"name": "SmallLM", "sha256": "n" * 64, "dtype": "float32"}}, "dense model"),
        ({"model": {"name": "SmallLM", "sha256": "m" * 64, "dtype": "bfloat16"}}, "dtype"),
        ({"dataset": {"evaluation": "/a/test.raw", "evaluation_sha256": "f" * 64}}, "evaluation text"),
    ],
)
def test_what_belongs_to_the_protocol(tmp_path, changed, condition):
    finished(tmp_path / "a")
    finished(tmp_path / "b", **changed)
    first, second = (protocol(run) for run in read([tmp_path])[0])
    assert [difference.partition(":")[0] for difference in differences(first, second)] == [condition]


def test_one_text_under_two_names_is_one_protocol(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b", dataset={"evaluation": "/elsewhere/copy.raw", "evaluation_sha256": "e" * 64})
    assert len(gathered(tmp_path)) == 1


def test_a_finished_checkpoint_stands_beside_the_model_that_it_was_measured_against(tmp_path):
    finished(tmp_path / "a")
    measured = {"name": "SmallLM-pruned-by-others", "dtype": "float32"}
    finished(tmp_path / "b", model=measured, reference={"name": "SmallLM", "sha256": "m" * 64}, method="dense")
    [group] = gathered(tmp_path)
    assert any("SmallLM-pruned-by-others" in label for label in group.labels)


def test_the_files_appear_whole_and_again(tmp_path):
    finished(tmp_path / "run")
    for _ in range(2):
        build([tmp_path / "run"], tmp_path / "into")
    assert sorted(path.name for path in (tmp_path / "into").iterdir()) == sorted(NAMES)
    assert read([tmp_path])[1] == []  # a report among runs is no run


def test_the_command_writes_beside_the_first_folder_and_says_where(tmp_path, capsys):
    finished(tmp_path / "runs" / "0", 71.25)
    assert main([str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "71.25" in shown
    assert shown.splitlines()[-1] == f"page: {tmp_path / 'runs' / 'report.html'}"
    assert all((tmp_path / "runs" / name).exists() for name in NAMES)


@pytest.mark.parametrize("exists,message", [(True, r"no result\.json below"), (False, "is no folder")])
def test_a_folder_without_runs_is_one_message(tmp_path, capsys, exists, message):
    folder = tmp_path if exists else tmp_path / "nothing"
    assert main([str(folder)]) == 1
    assert message.replace("\\", "") in capsys.readouterr().err
    with pytest.raises(UserError, match=message):
        build([folder], tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_the_stages_are_those_of_the_results_in_their_order(tmp_path):
    for name, seconds in (
        ("a", ["load", "prune", "evaluate"]),
        ("b", ["load", "allocate", "prune", "polish", "evaluate"]),
    ):
        finished(tmp_path / name, seconds=dict.fromkeys(seconds, 1.0))
    finished(tmp_path / "c", seconds={"load": 1.0, "save": 1.0})
    [group] = gathered(tmp_path)
    assert group.stages == ["load", "save", "allocate", "prune", "polish", "evaluate"]

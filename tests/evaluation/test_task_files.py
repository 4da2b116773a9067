"""Task files read without lm-eval: the same tasks that lm-eval finds, and every file that decides what they ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sparsity.core import UserError
from sparsity.evaluation.task_files import read_tasks


def write(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(options))
    return path


def test_an_include_is_overridden_and_its_files_count(tmp_path):
    write(tmp_path / "stock" / "inner.yaml", task="inner", dataset_path="json", test_split="test")
    (tmp_path / "stock" / "utils.py").write_text("")
    data = tmp_path / "test.jsonl"
    data.write_text("{}")
    middle = write(tmp_path / "own" / "middle.yaml", include="../stock/inner.yaml", test_split=None)
    outer = write(
        tmp_path / "own" / "deep" / "outer.yaml",
        include=[str(middle)],
        task="outer",
        dataset_kwargs={"data_files": {"validation": str(data)}},
    )
    found = read_tasks(tmp_path / "own")
    assert {*found} == {"inner", "outer"}  # what an included file is called counts where nothing overrides it
    assert found["inner"].path == middle
    assert found["outer"].options["dataset_path"] == "json"
    assert found["outer"].options["test_split"] is None
    names = [file.name for file in found["outer"].files()]
    assert sorted(names) == ["inner.yaml", "middle.yaml", "outer.yaml", "test.jsonl", "utils.py"]
    assert found["outer"].files()[0] == outer
    assert all(file.is_absolute() for file in found["outer"].files())


@pytest.mark.parametrize(
    "options",
    [
        {"dataset_path": "json", "dataset_kwargs": {"data_files": "DIR/a.jsonl"}},
        {"dataset_path": "json", "dataset_kwargs": {"data_files": ["DIR/a.jsonl", "hf://far/away.jsonl"]}},
        {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": ["DIR/*.jsonl"]}}},
        {"dataset_path": "json", "dataset_kwargs": {"data_dir": "DIR"}},
        {"dataset_path": "DIR"},
    ],
)
def test_every_way_to_name_data(options, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("{}")
    text = yaml.safe_dump({"task": "t", **options}).replace("DIR", str(tmp_path / "data"))
    (tmp_path / "t.yaml").write_text(text)
    task = read_tasks(tmp_path)["t"]
    assert [file.name for file in task.files()] == ["t.yaml", "a.jsonl"]


def test_data_of_the_hub_is_no_file(tmp_path):
    write(tmp_path / "t.yaml", task="t", dataset_path="allenai/ai2_arc", dataset_name="ARC-Easy")
    assert [file.name for file in read_tasks(tmp_path)["t"].files()] == ["t.yaml"]


def test_the_same_tasks_as_lm_eval_finds(tmp_path):
    write(tmp_path / "a.yaml", task="twice", dataset_path="first")
    write(tmp_path / "b" / "b.yaml", task="twice", dataset_path="second")
    write(tmp_path / "__pycache__" / "c.yaml", task="cached")
    write(tmp_path / "group.yaml", group="all", task=["twice"])
    write(tmp_path / "part.yaml", output_type="multiple_choice")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "function.yaml").write_text("task: calls\ndoc_to_text: !function mine.text\n")

    from lm_eval.tasks import TaskManager

    theirs, ours = TaskManager(include_path=str(tmp_path), include_defaults=False), read_tasks(tmp_path)
    assert {*ours} == {*theirs.all_subtasks} == {"twice", "calls"}
    assert all(theirs.task_index[name].yaml_path == task.path for name, task in ours.items())


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "t.yaml").write_text("task: [")
    with pytest.raises(UserError, match=r"t\.yaml cannot be read .* Mend it, or move it away"):
        read_tasks(tmp_path)

"""Task files over local data: what the model is asked is what the stock task asks, checked by hand for a document of each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from task_data import DATA, OTHER, lay_out

from sparsity.evaluation import harness
from sparsity.evaluation.local_tasks import STOCK
from sparsity.runs import tasks as command

pytestmark = pytest.mark.usefixtures("work", "no_traces")


def write(data: Path, into: Path) -> int:
    """`python -m sparsity.runs.tasks DATA INTO`."""
    return command.main([str(data), str(into)])


def requests(folder: Path, task: str) -> list[tuple[list[tuple[str, str]], object]]:
    """The prompts of each document and the right answer."""
    loaded = harness.load(harness.manager(folder, False, ()), [task], None)["tasks"][task]
    loaded.build_all_requests()
    documents = [doc for _, doc in loaded.doc_iterator()]
    asked: list[list[tuple[str, str]]] = [[] for _ in documents]
    for instance in loaded.instances:
        asked[instance.doc_id].append(instance.args)
    gold = loaded.doc_to_text if loaded.multiple_input else loaded.doc_to_target
    return [(of_doc, gold(doc)) for of_doc, doc in zip(asked, documents, strict=True)]


def choices(context: str, *continuations: str) -> list[tuple[str, str]]:
    return [(context, continuation) for continuation in continuations]


# By hand, from the texts of lm-eval's own documentation of each task: a prompt, what may follow, and which of it is right.
ASKED = {
    "arc_easy": (
        choices("Question: Which is a star?\nAnswer:", " the Sun", " Mars", " a comet", " the Moon"), 0,
    ),
    "arc_challenge": (choices("Question: What melts?\nAnswer:", " ice", " stone", " wood", " air"), 0),
    "piqa": (choices("Question: open a jar\nAnswer:", " twist the lid", " eat the lid"), 0),
    "boolq": (choices("Ice is frozen water.\nQuestion: is ice cold?\nAnswer:", " no", " yes"), 1),
    "winogrande": ([("Ann beat Bea so Ann", " was glad."), ("Ann beat Bea so Bea", " was glad.")], 0),
    "openbookqa": (choices("Fog is", " in a marsh", " no fog"), 0),
    "hellaswag": (
        choices(
            "Roof shingle removal: A man is sitting on a roof. He",
            " flies.", " naps.", " falls.", " pulls up roofing.",
        ),
        3,
    ),
    "rte": (
        choices("Dana Reeve has died.\nQuestion: Dana Reeve is dead. True or False?\nAnswer:", " True", " False"), 0,
    ),
    "lambada_openai": ([("He gave the dog a", " bone")], " bone"),
}  # fmt: skip


def test_every_task_is_asked_as_the_stock_task_is(tasks):
    assert {*ASKED} == {*STOCK} == {path.stem for path in tasks.iterdir()}
    for task, first in ASKED.items():
        found = requests(tasks, task)
        assert found[0] == first, task
        assert len(found) == len(next(iter(DATA[task].values()))), task


def test_a_document_whose_choices_have_other_labels(tasks):
    asked, gold = requests(tasks, "arc_easy")[1]
    assert [continuation for _, continuation in asked] == [" oxygen", " carbon dioxide", " iron"]
    assert gold == 1


def test_the_files_of_superglue_ask_the_same(tasks, tmp_path):
    assert write(lay_out(tmp_path / "others", OTHER), tmp_path / "other") == 0
    assert requests(tmp_path / "other", "rte") == requests(tasks, "rte")


def test_finished_queries_ask_the_same_but_for_a_space_and_say_so(tasks, tmp_path, capsys):
    """The published file has stripped the endings; lm-eval leaves a space where one began with a tag."""
    assert write(lay_out(tmp_path / "others", OTHER), tmp_path / "other") == 0
    said = capsys.readouterr().out
    assert re.search(r"written  hellaswag_query: .*validation_query\.jsonl; not hellaswag: an ending", said)
    assert not (tmp_path / "other" / "hellaswag.yaml").exists()
    found, stock = requests(tmp_path / "other", "hellaswag_query"), requests(tasks, "hellaswag")
    assert stock[1][0][3] == ("Polo: The match ends. They smile. The man in the usa", "  sits.")
    assert found[1][0][3] == ("Polo: The match ends. They smile. The man in the usa", " sits.")
    stock[1][0][3] = found[1][0][3]
    assert found == stock


def test_a_task_file_says_where_the_documents_are_and_nothing_of_metrics(tasks):
    for path in tasks.glob("*.yaml"):
        written = yaml.safe_load(path.read_text())
        assert written["task"] == path.stem
        assert {*written} == {
            "include", "task", "tag", "dataset_path", "dataset_name", "dataset_kwargs",
            "training_split", "validation_split", "test_split",
        }  # fmt: skip


def test_a_training_split_is_used_for_examples(tmp_path, capsys):
    data = lay_out(tmp_path / "data", {"piqa": DATA["piqa"] | {"train.jsonl": DATA["piqa"]["validation.jsonl"]}})
    assert write(data, tmp_path / "tasks") == 0
    assert "num_fewshot" not in capsys.readouterr().out
    task = harness.load(harness.manager(tmp_path / "tasks", False, ()), ["piqa"], 1)["tasks"]["piqa"]
    assert len(task.training_docs()) == 2
    assert task.get_config("num_fewshot") == 1


def test_what_became_of_every_task_is_said(tmp_path, capsys):
    data = lay_out(tmp_path / "data", {task: DATA[task] for task in ("piqa", "boolq", "winogrande")})
    (data / "boolq" / "validation.jsonl").rename(data / "boolq" / "train.jsonl")
    (data / "winogrande" / "validation.jsonl").write_text(json.dumps({"text": "other"}) + "\n")
    lay_out(data, {"rte": {"dev.jsonl": [], "val.jsonl": []}})
    assert write(data, tmp_path / "tasks") == 0
    said = capsys.readouterr().out
    lines = {match[2]: match[0] for match in re.finditer(r"^(written|skipped)  (\w+): .*$", said, re.MULTILINE)}
    assert {*lines} == {*STOCK}
    assert [path.name for path in (tmp_path / "tasks").iterdir()] == ["piqa.yaml"]
    assert lines["piqa"].startswith("written")
    assert "expected validation.jsonl" in lines["boolq"]
    assert "found train.jsonl" in lines["boolq"]
    assert "fields text: expected answer, option1, option2, sentence" in lines["winogrande"]
    assert "dev.jsonl and val.jsonl" in lines["rte"]
    assert "no folder" in lines["arc_easy"]
    assert "examples (num_fewshot > 0) are not those of the stock task: piqa" in said
    assert f"tasks_path={tmp_path / 'tasks'} evaluation.lm_eval.tasks=[piqa]" in said


def test_a_second_call_replaces_the_first_ones_files_and_nobody_elses(tasks, tmp_path, capsys):
    (tmp_path / "data" / "piqa" / "validation.jsonl").unlink()
    assert write(tmp_path / "data", tasks) == 0
    assert {path.stem for path in tasks.iterdir()} == {*STOCK} - {"piqa"}
    (tasks / "boolq.yaml").write_text("task: boolq  # my own\n")
    before = {path.name: path.read_text() for path in tasks.iterdir()}
    (tmp_path / "data" / "rte" / "validation.jsonl").unlink()
    assert write(tmp_path / "data", tasks) == 1
    assert "boolq.yaml was not written by this command" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in tasks.iterdir()} == before


def test_a_folder_without_data_is_refused(tmp_path, capsys):
    for data, said in ((tmp_path / "none", "is no folder"), (tmp_path, "holds data of no task")):
        assert write(data, tmp_path / "tasks") == 1
        assert re.match(f"error: .*{said}", capsys.readouterr().err)
    assert not (tmp_path / "tasks").exists()

"""lm-eval's tasks in a run: the same answers as lm-eval's own on the saved checkpoint, remembered, and every mistake named."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import save, tiny
from commands import SMALL, command, run
from tasks_asked import OPTIONS, asked, edited, evaluator

from sparsity.cache import Cache
from sparsity.evaluation import harness
from sparsity.models import Decoder
from sparsity.stages.evaluating import references, tokenizer_hash
from sparsity.stages.loading import DenseModel
from sparsity.stages.recording import Silent

pytestmark = pytest.mark.usefixtures("work", "no_traces")


def by_hand(checkpoint: Path, tasks: Path, names: list[str], *, max_length: int | None, **options: object) -> dict:
    """lm-eval itself, which loads the checkpoint on its own."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    arguments = {"pretrained": str(checkpoint), "dtype": "float32"} | ({"max_length": max_length} if max_length else {})
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(
        model="hf", model_args=arguments, tasks=names, task_manager=manager, device="cpu", bootstrap_iters=100, **options
    )  # fmt: skip


# --- the same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 2, "num_fewshot": 1, "batch_size": 3},
        pytest.param({"apply_chat_template": True, "max_length": 48}, marks=pytest.mark.slow),
    ],
)
def test_the_answers_are_those_of_lm_eval_on_the_saved_checkpoint(options, tasks, monkeypatch):
    """Every log-likelihood to the last bit, every metric and standard error; and of the dense model as well."""
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    options = OPTIONS | options
    names = ["arc_easy", "boolq", "winogrande", "lambada_openai"]
    found = run(*asked(*names, **options, bootstrap_iters=100), "method=wanda", "sparsity=0.6", "save=true")
    summary, rows = found.result["evaluation"]["lm_eval"], found.table("documents")
    assert [*summary["tasks"]] == [*summary["pruned"]] == names
    for which, checkpoint in {"pruned": found.checkpoint, "dense": save(tiny(), Path("dense"))}.items():
        hand = by_hand(checkpoint, tasks, names, **options)
        for task in names:
            figures = {key.removesuffix(",none"): v for key, v in hand["results"][task].items() if "," in key}
            assert summary[which][task] == {key: value for key, value in figures.items() if value != "N/A"}
            mine = [row for row in rows if row["task"] == task]
            samples = sorted(hand["samples"][task], key=lambda sample: sample["doc_id"])
            assert [(int(row["document"]), row["doc_hash"]) for row in mine] == [
                (sample["doc_id"], sample["doc_hash"]) for sample in samples
            ]
            for row, sample in zip(mine, samples, strict=True):
                assert json.loads(row[f"loglikelihoods_{which}"]) == [one[0][0] for one in sample["resps"]]
                for metric in sample["metrics"]:
                    assert float(row[f"{metric}_{which}"]) == sample[metric]
    assert all(row["loglikelihoods_dense"] != row["loglikelihoods_pruned"] for row in rows)


def test_what_is_written_down(tasks):
    found = run(*asked("arc_easy", "lambada_openai", limit=2, bootstrap_iters=0), "method=magnitude")
    summary = found.result["evaluation"]["lm_eval"]
    assert {*summary["pruned"]["arc_easy"]} == {"acc", "acc_norm"}  # without standard errors: nobody asked for them
    assert summary["limit"] == 2
    assert summary["lm_eval"] == version("lm_eval")
    assert summary["tasks"]["arc_easy"] == {
        "num_fewshot": 0,
        "version": 1.0,
        "output_type": "multiple_choice",
        "dataset": {"path": "json", "name": None, "data_files": summary["tasks"]["arc_easy"]["dataset"]["data_files"]},
        "n_samples": {"original": 3, "effective": 2},
    }
    rows = found.table("documents")
    assert [(row["task"], row["document"]) for row in rows] == [
        ("arc_easy", "0"), ("arc_easy", "1"), ("lambada_openai", "0"), ("lambada_openai", "1"),
    ]  # fmt: skip
    assert [row["acc_norm_pruned"] == "" for row in rows] == [False, False, True, True]
    accuracy = [float(row["acc_pruned"]) for row in rows[:2]]
    assert sum(accuracy) / 2 == summary["pruned"]["arc_easy"]["acc"]
    assert found.result["perplexity"] == {"dense": None, "pruned": None}
    measures = {measure.pop("name"): measure for measure in found.result["measures"]}
    accuracy = measures["evaluation.lm_eval.pruned.arc_easy.acc"]
    assert accuracy == {"value": sum([float(row["acc_pruned"]) for row in rows[:2]]) / 2, "unit": "fraction",
                        "better": "larger", "heading": "arc easy acc"}  # fmt: skip
    assert measures["evaluation.lm_eval.dense.lambada_openai.perplexity"]["better"] == "smaller"  # lm-eval says so


def test_a_task_of_ones_own_with_its_functions_and_several_filters(tasks):
    (tasks / "own").mkdir()
    (tasks / "own" / "mine.py").write_text(
        "def text(doc):\n    return doc['text']\n\n\ndef lengths(doc, results):\n    return {'length': len(results[0])}\n"
    )
    (tasks / "own" / "own.yaml").write_text(
        f"""task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {Path("data/lambada_openai/lambada_test.jsonl").absolute()}}}}}
test_split: test
output_type: generate_until
generation_kwargs: {{max_gen_toks: 4, until: [zzz], do_sample: true, temperature: 1.0}}
doc_to_text: !function mine.text
doc_to_target: ""
process_results: !function mine.lengths
metric_list: [{{metric: length, aggregation: mean, higher_is_better: true}}]
filter_list:
  - {{name: whole, filter: [{{function: take_first}}]}}
  - {{name: twice, filter: [{{function: take_first}}]}}
"""
    )
    assert {path.name for path in evaluator("own").files()} >= {"own.yaml", "mine.py", "lambada_test.jsonl"}
    found = run(*asked("own"), "method=magnitude")
    row = found.table("documents")[0]
    assert row["loglikelihoods_pruned"] == "[]"  # a text was written, no choice rated
    assert row["length,whole_pruned"] == row["length,twice_pruned"] != ""
    assert {"length,whole", "length,twice"} <= {*found.result["evaluation"]["lm_eval"]["pruned"]["own"]}
    told = {measure["name"]: measure for measure in found.result["measures"]}
    twice = told["evaluation.lm_eval.pruned.own.length,twice"]
    assert (twice["unit"], twice["better"]) == ("", "larger")  # as the task's file says
    assert twice["error"] == found.result["evaluation"]["lm_eval"]["pruned"]["own"]["length_stderr,twice"]


def test_groups_and_tags_stand_for_their_tasks(tasks, few_stock_tasks):
    (tasks / "both.yaml").write_text(
        "group: both\ntask: [piqa, boolq]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    decoder = Decoder(tiny().model, tiny().tokenizer)
    asks = evaluator("both")
    measured = asks.compare(decoder, torch.empty(0), asks.reference(decoder, torch.empty(0)))
    assert {*measured.summary["tasks"]} == {"piqa", "boolq"}
    of_both = [measured.summary["pruned"][name]["acc"] for name in ("piqa", "boolq")]
    assert measured.summary["pruned"]["both"]["acc"] == sum(of_both) / 2
    assert {row["task"] for row in measured.rows} == {"piqa", "boolq"}


@pytest.mark.usefixtures("few_stock_tasks")
def test_a_local_task_replaces_the_stock_task_and_no_tag(tasks):
    index = harness.manager(tasks, True, ()).task_index
    assert index["arc_easy"].yaml_path == tasks / "arc_easy.yaml"
    assert index["stock_only"].yaml_path == tasks.parent / "stock" / "stock_only.yaml"
    assert index["ai2_arc"].tags == {"arc_easy", "stock_only"}


def test_a_task_file_that_came_later_is_seen(tasks):
    evaluator("piqa").check(torch.empty(0))
    (tasks / "later.yaml").write_text("include: piqa.yaml\ntask: later\n")
    evaluator("later").check(torch.empty(0))


# --- nothing else changes ---------------------------------------------------------------------------------------------


def seed(number: int) -> None:
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 (the global state is what lm-eval may touch)
    torch.manual_seed(number)


def drawn() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def test_the_model_its_tokenizer_and_the_generators_are_left_as_they_were(tasks):
    """And a task that draws from the generators draws the same, whatever was drawn before."""
    (tasks / "mine.py").write_text(
        "import random\nimport numpy as np\nimport torch\n\n\ndef results(doc, answers):\n"
        "    return {'acc': random.random(), 'acc_norm': np.random.rand(), 'acc_bytes': torch.rand(1).item()}\n"
    )
    (tasks / "draws.yaml").write_text("include: piqa.yaml\ntask: draws\nprocess_results: !function mine.results\n")
    loaded = tiny()
    loaded.tokenizer.pad_token = None  # lm-eval would give it one, and the checkpoint would have it too
    decoder = Decoder(loaded.model, loaded.tokenizer)
    loaded.model.train()
    before = decoder.fingerprint(), tokenizer_hash(loaded.tokenizer)
    seed(5)
    expected = drawn()
    answers = []
    for start in (5, 6):
        seed(start)
        answers.append(evaluator("draws", num_fewshot=1).reference(decoder, torch.empty(0))["answers"])
        assert [a == b for a, b in zip(drawn(), expected, strict=True)] == [start == 5] * 3
    assert torch.equal(*answers)
    assert (decoder.fingerprint(), tokenizer_hash(loaded.tokenizer)) == before
    assert loaded.tokenizer.pad_token is None
    assert loaded.model.training
    assert "DISABLE_MULTIPROC" not in os.environ


def test_a_run_says_nothing_of_lm_evals_own(tasks):
    ended = command(*SMALL, *asked("boolq", "lambada_openai", num_fewshot=1), "hydra.run.dir=quiet")
    assert ended.status == 0, ended.err
    assert ended.err == ""
    share = r"[0-9.]+% ± [0-9.]+%"
    assert re.search(rf"lm_eval boolq acc, larger is better\n  dense {share}, pruned {share}\n", ended.out)
    for chatter in ("bootstrapping", "pretrained", "it/s", "aggregation", "fewshot"):
        assert chatter not in ended.out


def test_lm_eval_is_not_imported_before_it_is_asked():
    code = (
        "import sys; from sparsity.evaluation import LMEval; "
        "files = LMEval(['arc_easy'], None, None, None, 1, None, False, 0).files(); "
        "print(sorted({'lm_eval', 'datasets'} & {*sys.modules}), files[0].name)"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ended.stdout.split("\n")[0] == "[] __init__.py"


# --- the dense model's answers are remembered -------------------------------------------------------------------------


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever a model is asked."""
    calls, evaluate = [], harness.evaluate

    def counted(*arguments, **options):
        calls.append("asked")
        return evaluate(*arguments, **options)

    monkeypatch.setattr(harness, "evaluate", counted)
    return calls


def test_the_dense_model_is_asked_once_and_again_after_a_change(tasks, evaluations):
    words = asked("piqa", "boolq")
    first = run(*words, "method=wanda", into="a")
    second = run(*words, "method=magnitude", into="b")
    assert len(evaluations) == 3
    dense = [run.result["evaluation"]["lm_eval"]["dense"] for run in (first, second)]
    assert dense[0] == dense[1]

    keys = {second.result["run_key"]}
    changes = {
        "limit": lambda: asked("piqa", "boolq", limit=1),
        "tasks": lambda: asked("piqa"),
        "data": lambda: edited("data/piqa/validation.jsonl", "twist the lid", "turn the lid"),
        "task file": lambda: edited("tasks/boolq.yaml", "task: boolq", "task: boolq\ndescription: Answer this"),
    }
    for done, (change, changed) in enumerate(changes.items(), start=1):
        found = run(*(changed() or words), "method=magnitude", into=f"after {change}")
        assert len(evaluations) == 3 + 2 * done, change
        keys.add(found.result["run_key"])
    assert len(keys) == 1 + len(changes)


class Counts:
    """An evaluator of a text of its own that counts how often the dense model is asked."""

    reads_text, remembers = False, True

    def __init__(self) -> None:
        self.asked = 0

    def __repr__(self) -> str:
        return "Counts()"

    def files(self):
        return ()

    def reference(self, dense, ids_N, notes):
        self.asked += 1
        return {"nothing": torch.zeros(1)}


def test_another_tokenizer_is_another_reference(tmp_path):
    loaded, counts = tiny(), Counts()
    for expected, template in enumerate([loaded.tokenizer.chat_template, "{{ messages }}"], start=1):
        loaded.tokenizer.chat_template = template
        for _ in range(2):
            parts, cache = SimpleNamespace(evaluation={"counts": counts}), Cache(tmp_path / "cache", 2**20)
            job = SimpleNamespace(parts=parts, device=torch.device("cpu"), cache=cache)
            references(SimpleNamespace(job=job, ids_N=torch.empty(0), record=Silent()), DenseModel(loaded))
        assert counts.asked == expected


def test_remembered_answers_to_other_documents_are_not_compared(tasks):
    decoder = Decoder(tiny().model, tiny().tokenizer)
    reference = evaluator("piqa").reference(decoder, torch.empty(0))
    edited("data/piqa/validation.jsonl", "twist the lid", "turn the lid")
    with pytest.raises(ValueError, match="for other documents than the pruned model's"):
        evaluator("piqa").compare(decoder, torch.empty(0), reference)

"""What can be wrong with an evaluation by lm-eval is said before anything is computed, and what is not finite is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import tiny
from commands import SMALL, command, refuse
from tasks_asked import asked, edited, evaluator

from sparsity.core import UserError
from sparsity.evaluation import harness
from sparsity.models import Decoder, Tiny
from sparsity.stream import BlockStream

pytestmark = pytest.mark.usefixtures("tasks")
NO_IDS = torch.empty(0)


def nothing() -> None: ...


def include(name: str, more: str) -> Callable[[], None]:
    """Another task file in the folder: piqa with something else."""
    return lambda: Path(f"tasks/{name}.yaml").write_text(f"include: piqa.yaml\ntask: {name}\n{more}") and None


EARLY = {  # no model is loaded: what is done to the folder, what is asked, and what is said
    "no document": (nothing, asked("piqa", limit=0), ["evaluation.lm_eval.limit=0 is not valid", ">= 1"]),
    "no batch": (nothing, asked("piqa", batch_size=0), ["evaluation.lm_eval.batch_size=0 is not valid"]),
    "less than no example": (nothing, asked("piqa", num_fewshot=-1), ["num_fewshot=-1", ">= 0"]),
    "no task": (nothing, asked(), ["evaluation.lm_eval.tasks is empty", "[arc_easy,piqa]"]),
    "no list": (nothing, asked(tasks="piqa"), ["evaluation.lm_eval.tasks=piqa", "expected a list"]),
    "no folder": (nothing, asked("piqa", tasks_path="none"), ["tasks_path=none does not exist", "sparsity.runs.tasks"]),
    "a file": (nothing, asked("piqa", tasks_path="evaluation.txt"), ["evaluation.txt is a file", "expected a folder"]),
    "no data": (
        lambda: Path("data/piqa/validation.jsonl").unlink(),
        asked("boolq", "piqa"),
        ["data of task piqa is missing", "piqa.yaml names", "validation.jsonl", "sparsity.runs.tasks"],
    ),
    "no YAML": (
        lambda: edited("tasks/piqa.yaml", "task: piqa", "task: [piqa"), asked("boolq"), ["tasks/piqa.yaml cannot be read"],
    ),
    "an included file that is not there": (
        lambda: edited("tasks/piqa.yaml", "piqa/piqa.yaml", "piqa/pika.yaml"), asked("piqa"), ["pika.yaml cannot be read"],
    ),
    "a file that includes itself": (
        lambda: edited("tasks/piqa.yaml", "task: piqa", "task: piqa\ninclude: piqa.yaml"),
        asked("piqa"),
        ["piqa.yaml includes itself"],
    ),
}  # fmt: skip
LATE = {  # nothing is computed
    "unknown task": (nothing, asked("piqa", "pika"), ["no task pika", "Did you mean: piqa", "In tasks: arc_challenge, "]),
    "no JSON": (
        lambda: Path("data/piqa/validation.jsonl").write_text("{{{\n"), asked("piqa"), ["cannot load task piqa"],
    ),
    "a question that asks for a missing field": (
        include("other", 'doc_to_text: "{{gaol}}"\n'), asked("other"), ["cannot load task other", "'gaol' is undefined"],
    ),
    "code of the model's": (
        include("unsafe", "unsafe_code: true\n"), asked("unsafe"), ["unsafe is UNSAFE_CODE", "leave it out"],
    ),
    "a function that is not there": (
        include("lost", "doc_to_text: !function mine.text\n"), asked("lost"), ["cannot load task lost", "mine"],
    ),
}  # fmt: skip


def assert_refused(words: list[str], said: list[str]) -> None:
    ended = command(*SMALL, *words)
    assert ended.status == 1
    assert ended.err.count("error: ") == 1, ended.err
    assert "Traceback" not in ended.err + ended.out
    assert len(ended.err) < 800, "a message, not a wall of text"
    for part in said:
        assert part in ended.err, f"{part!r} is not in: {ended.err}"
    assert not list(Path("outputs").glob("*/*"))


@pytest.mark.parametrize("mistake", EARLY)
def test_before_a_model_is_loaded(mistake, monkeypatch):
    do, words, said = EARLY[mistake]
    do()
    monkeypatch.setattr(Tiny, "load", refuse)
    assert_refused(words, said)


@pytest.mark.usefixtures("few_stock_tasks")
@pytest.mark.parametrize("mistake", LATE)
def test_before_anything_is_computed(mistake, monkeypatch):
    do, words, said = LATE[mistake]
    do()
    monkeypatch.setattr(harness, "evaluate", refuse)
    monkeypatch.setattr(BlockStream, "observe", refuse)
    assert_refused(words, said)


@pytest.mark.slow  # lm-eval lists its tasks
def test_a_stock_task_that_does_not_exist():
    with pytest.raises(UserError, match=r"has no task arc_eazy\. Did you mean: .*arc_easy.*ls tasks"):
        evaluator("arc_eazy", tasks_path=None).check(NO_IDS)


def test_a_model_without_tokenizer_or_chat_template(monkeypatch):
    monkeypatch.setattr(harness, "evaluate", refuse)
    with pytest.raises(UserError, match="needs the model's tokenizer"):
        evaluator("piqa").reference(Decoder(tiny().model), NO_IDS)
    loaded = tiny()
    loaded.tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"has no chat template: leave it false"):
        evaluator("piqa", apply_chat_template=True).reference(Decoder(loaded.model, loaded.tokenizer), NO_IDS)


def test_an_answer_that_does_not_fit():
    decoder = Decoder(tiny().model, tiny().tokenizer)
    with pytest.raises(UserError, match=r"refuses a text of piqa.*max_length=5\. Raise it"):
        evaluator("piqa", max_length=5).reference(decoder, NO_IDS)


def test_an_answer_that_is_not_finite_is_named():
    """A choice of the second document has letters that no other request has: their embeddings are not finite."""
    loaded = tiny(tie_word_embeddings=False)
    edited("data/piqa/validation.jsonl", "hang it up", "ZZ")
    rare = loaded.tokenizer("Z")["input_ids"][0]
    decoder = Decoder(loaded.model, loaded.tokenizer)
    reference = evaluator("piqa").reference(decoder, NO_IDS)
    loaded.model.model.embed_tokens.weight.data[rare] = torch.nan
    with pytest.raises(
        UserError, match=r"pruned model's .* request 1 of document 1 of task piqa is nan.*comes out of model\.embed"
    ):
        evaluator("piqa").compare(decoder, NO_IDS, reference)


def test_a_metric_that_is_not_finite_is_named():
    loaded = tiny(tie_word_embeddings=False)
    loaded.model.lm_head.weight.data *= 1e4  # sure of itself, and wrong
    with pytest.raises(UserError, match="a metric of lambada_openai is too large for a float"):
        evaluator("lambada_openai").reference(Decoder(loaded.model, loaded.tokenizer), NO_IDS)
    Path("tasks/mine.py").write_text("def results(doc, answers):\n    return {'acc': float('inf')}\n")
    include("endless", "process_results: !function mine.results\n")()
    with pytest.raises(UserError, match="the dense model's acc of task endless is inf"):
        evaluator("endless").reference(Decoder(tiny().model, tiny().tokenizer), NO_IDS)

"""Stock tasks of lm-eval with documents from local files instead of the hub: the same documents, prompts, choices and metrics.

A local task includes the stock task of the installed lm-eval. It changes only the place of the documents and, if the file has
other field names, the templates that build the same text from them. It keeps the stock name. Each DATA_FOLDER/<task>/*.jsonl
holds one split, which its name tells ("test.jsonl", "RTE.val.jsonl"), with one document per line. If the stock prompts cannot be
built exactly from a file, the task gets another name, so that a stock name always means the stock task.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core import UserError
from .task_files import read_options

SPLITS = {"training": ("train", "training"), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Form:
    """A set of field names that a file may have, and the options that the task then needs instead of the stock task's."""

    fields: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    differs: str = (
        ""  # how the prompts differ from the stock task's, if they do; the task then has its own name in `options`
    )


def _form(fields: str, differs: str = "", **options: Any) -> Form:
    return Form(frozenset(fields.split()), options, differs)


# HellaSwag's context consists of whole sentences (ctx_a) and, in the ActivityNet part, the beginning of the next one (ctx_b),
# which lm-eval capitalises. In a file of finished queries the two are joined; the beginning is then the text after the last full
# stop.
_JOINED = "{% set start = query.rfind('. ') + 2 %}{{ query if query.endswith('.') else query[:start] + query[start:]|capitalize }}"

_CHOICES = _form("question choices answerKey")
STOCK: Mapping[
    str, tuple[str, tuple[Form, ...]]
] = {  # the stock task's file in lm_eval/tasks, and the forms of its data
    "arc_easy": ("arc/arc_easy.yaml", (_CHOICES,)),
    "arc_challenge": ("arc/arc_challenge.yaml", (_CHOICES,)),
    "piqa": ("piqa/piqa.yaml", (_form("goal sol1 sol2 label"),)),
    "boolq": ("super_glue/boolq/default.yaml", (_form("passage question label"),)),
    "winogrande": ("winogrande/default.yaml", (_form("sentence option1 option2 answer"),)),
    "openbookqa": ("openbookqa/openbookqa.yaml", (_form("question_stem choices answerKey"),)),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        (
            _form("activity_label ctx_a ctx_b endings label"),
            _form(
                "query choices gold",
                differs="an ending that began with a tag such as [step] has lost the space behind it",
                task="hellaswag_query",
                process_docs=None,
                doc_to_text=_JOINED,
                doc_to_target="gold",
            ),
        ),
    ),
    "rte": (
        "glue/rte/default.yaml",
        (
            _form("sentence1 sentence2 label"),
            _form(  # the file of SuperGLUE: the same documents, perhaps in another order
                "premise hypothesis label",
                doc_to_text="{{premise}}\nQuestion: {{hypothesis}} True or False?\nAnswer:",
                doc_to_target="{{['entailment', 'not_entailment'].index(label)}}",
            ),
        ),
    ),
    "lambada_openai": ("lambada/lambada_openai.yaml", (_form("text"),)),
}


@dataclass(frozen=True)
class Local:
    """A local task, or the reason why there is none."""

    task: str
    options: Mapping[str, Any] | None  # None: skipped
    said: str  # the file that is evaluated, or the reason
    own_examples: bool = (
        True  # False: without a training split, examples (num_fewshot > 0) are not those of the stock task
    )


def local_tasks(data: Path) -> Iterator[Local]:
    """The local variant of each stock task in STOCK. Raises `UserError` if `data` is no folder or lm-eval is not installed."""
    if not data.is_dir():
        raise UserError(f"{data} is no folder: expected one with a folder of .jsonl files for each task, such as piqa/")
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UserError("local tasks need the package lm-eval, which is not installed: pip install lm-eval")
    for task, (file, forms) in STOCK.items():
        stock = Path(spec.origin).absolute().parent / "tasks" / file
        try:
            yield _local(task, stock, forms, data.absolute() / task)
        except _Skipped as reason:
            yield Local(task, None, str(reason))


class _Skipped(Exception):
    """Ends the search for a task's files. The message is the reason why the task has no local variant."""


def _local(task: str, stock: Path, forms: tuple[Form, ...], folder: Path) -> Local:
    if not folder.is_dir():
        raise _Skipped(f"no folder {folder}")
    options = read_options(stock)
    files = _splits(folder)
    evaluated = "test" if options.get("test_split") else "validation"
    if evaluated not in files:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise _Skipped(
            f"it is evaluated on its {evaluated} split: expected {evaluated}.jsonl in {folder}, found {found}"
        )
    used = {split: path for split, path in files.items() if options.get(f"{split}_split")}
    form = {split: _matching(path, forms) for split, path in used.items()}
    if any(found != form[evaluated] for found in form.values()):
        raise _Skipped(f"the files in {folder} name their fields differently: expected all splits in one form")
    written: dict[str, Any] = {
        "include": str(stock),
        "task": task,
        "tag": None,  # a tag in this folder would hide the stock tasks with the same tag
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(path) for split, path in used.items()}},
        **{f"{split}_split": split if split in used else None for split in SPLITS},
        **form[evaluated].options,
    }
    own_examples = "training" in used or not options.get("training_split")
    said = str(used[evaluated]) + (f"; not {task}: {form[evaluated].differs}" if form[evaluated].differs else "")
    return Local(written["task"], written, said, own_examples)


def _splits(folder: Path) -> dict[str, Path]:
    """The file of each split, found by the words in the file names."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.jsonl")):
        words = set(re.split(r"[^a-z]+", path.stem.lower()))
        for split, names in SPLITS.items():
            if words & {*names}:
                if split in found:
                    raise _Skipped(f"{found[split].name} and {path.name} in {folder} are both its {split} split")
                found[split] = path
    return found


def _matching(path: Path, forms: tuple[Form, ...]) -> Form:
    """The form of a file, found by the fields of its first line."""
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    fields = set(document) if isinstance(document, dict) else set()
    for form in forms:
        if form.fields <= fields:
            return form
    expected = " or ".join(", ".join(sorted(form.fields)) for form in forms)
    raise _Skipped(
        f"{path} begins with fields {', '.join(sorted(fields)) or 'that are no JSON object'}: expected {expected}"
    )

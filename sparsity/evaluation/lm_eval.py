"""Tasks of EleutherAI's lm-evaluation-harness for the dense and the pruned model: the metrics, and every single answer.

lm-eval computes the metrics; they equal those of its command on the saved checkpoint, to the last bit at the same batch size. For
each document, the metrics and the log-likelihoods of its requests (in nats, one per choice) are kept, so that two models can be
compared document by document, by (task, doc_hash). A task in which the model writes text instead of rating choices has only
metrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from ..core import UserError
from ..evaluator import Measured, Model
from ..measures import Better, Measure, both
from ..notes import NO_NOTES, Notes
from ..ranges import Count, Filled, Range, Tokens, checked
from ..record.folders import stamps
from . import harness
from .packing import pack, unpack
from .task_files import TaskFile, read_tasks

SHARES = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "exact_match", "f1", "em")  # metrics that are fractions
# By lm-eval's higher_is_better.
BETTER: Mapping[bool | None, Better | None] = {True: "larger", False: "smaller", None: None}
Examples = Annotated[int, Range(least=0, cap=1000, such=5)]
Resamplings = Annotated[int, Range(least=0, cap=10**6, such=1000)]


@dataclass(frozen=True)
@checked
class LMEval:
    """The evaluator that runs tasks of lm-eval."""

    reads_text: ClassVar[bool] = False
    remembers: ClassVar[bool] = True
    streams: ClassVar[bool] = False

    tasks: Annotated[list[str], Filled()]  # names of tasks, groups or tags; a group or tag stands for its tasks
    tasks_path: str | None  # a folder of task files; one that has the name of a stock task replaces it
    limit: Count | None  # the first so many documents of each task; None: all
    num_fewshot: Examples | None  # in front of each question; None: the task's own number
    batch_size: Count  # requests in one forward pass
    max_length: Tokens | None  # tokens; what is longer loses its beginning; None: the model's
    apply_chat_template: bool  # each question as a message of the user's, examples as earlier turns
    bootstrap_iters: Resamplings  # resamplings behind a standard error that has no closed form; 0: no standard errors

    def __post_init__(self) -> None:
        if self._folder is not None and not self._folder.is_dir():
            got = "is a file" if self._folder.exists() else "does not exist"
            raise UserError(
                f"evaluation.lm_eval.tasks_path={self.tasks_path} {got}: expected a folder of lm-eval's task files. To write one: "
                f"python -m sparsity.runs.tasks DATA_FOLDER TASKS_FOLDER"
            )

    @property
    def _folder(self) -> Path | None:
        return None if self.tasks_path is None else Path(self.tasks_path).expanduser().absolute()

    def _local(self) -> dict[str, TaskFile]:
        return {} if self._folder is None else read_tasks(self._folder)

    def files(self) -> Sequence[Path]:
        """The task files, the data that they name, and a file of lm-eval, because another version may give other results."""
        spec = find_spec("lm_eval")  # finds the package without importing it
        if spec is None or spec.origin is None:
            raise UserError(
                "evaluation=[lm_eval] needs the package lm-eval, which is not installed: pip install lm-eval"
            )
        local = self._local()
        found = [file for name in self.tasks if name in local for file in local[name].files()]
        if not all(name in local for name in self.tasks):  # a group or tag may include any of the local tasks
            found += (source for task in local.values() for source in task.sources)
        return [Path(spec.origin), *dict.fromkeys(found)]

    def check(self, ids_N: Tensor) -> None:
        """Raise `UserError` if a task is unknown or cannot be loaded. Loads the tasks and their documents."""
        self._load()

    def reference(self, dense: Model, ids_N: Tensor, notes: Notes = NO_NOTES) -> Mapping[str, Tensor]:
        return {"answers": pack(self._answers(dense, "dense"))}

    def compare(
        self, pruned: Model, ids_N: Tensor, reference: Mapping[str, Tensor], notes: Notes = NO_NOTES
    ) -> Measured:
        dense, after = unpack(reference["answers"]), unpack(pack(self._answers(pruned, "pruned")))
        summary = {
            "dense": dense["metrics"],
            "pruned": after["metrics"],
            "lm_eval": after["lm_eval"],
            "tasks": after["tasks"],
            "limit": self.limit,
            "batch_size": self.batch_size,
            "max_length": self.max_length,
            "apply_chat_template": self.apply_chat_template,
        }
        measures = list(_measures(dense["metrics"], after["metrics"], after["higher_is_better"]))
        return Measured(summary, "documents", list(_pairs(dense["documents"], after["documents"])), measures)

    def _load(self) -> harness.Loaded:
        local = self._local()
        stock = not all(name in local for name in self.tasks)
        manager = harness.manager(self._folder, stock, tuple(stamps(self.files())))
        for name in self.tasks:
            if name not in manager.all_tasks:
                close = get_close_matches(name, manager.all_tasks, n=3)
                raise UserError(
                    f"lm-eval {version('lm_eval')} has no task {name}."
                    + (f" Did you mean: {', '.join(close)}?" if close else "")
                    + (f" In {self.tasks_path}: {', '.join(sorted(local)) or 'no task'}." if self.tasks_path else "")
                    + " `lm_eval ls tasks` lists all"
                )
        return harness.load(manager, self.tasks, self.num_fewshot)

    def _answers(self, model: Model, which: str) -> dict[str, Any]:
        """One model's metrics and answers, as a JSON value. Raises `UserError` if one is NaN or infinite."""
        if model.tokenizer is None:
            raise UserError("evaluation=[lm_eval] needs the model's tokenizer, and it has none: expected one beside it")
        if self.apply_chat_template and not getattr(model.tokenizer, "chat_template", None):
            raise UserError(
                "evaluation.lm_eval.apply_chat_template=true, but the model's tokenizer has no chat template: leave it false"
            )
        found = harness.evaluate(
            model,
            self._load(),
            {"batch_size": self.batch_size, "max_length": self.max_length},
            limit=self.limit,
            bootstrap_iters=self.bootstrap_iters,
            apply_chat_template=self.apply_chat_template,
            fewshot_as_multiturn=self.apply_chat_template,
        )
        samples = [(task, sample) for task, listed in sorted(found["samples"].items()) for sample in listed]
        for task, sample in samples:
            if not all(math.isfinite(value) for value in _loglikelihoods(sample)):
                raise UserError(self._not_finite(model, which, task, sample))
        metrics = {name: _metrics(values) for name, values in found["results"].items()}
        for name, values in metrics.items():
            for metric, value in values.items():
                if not math.isfinite(value):
                    raise UserError(
                        f"the {which} model's {metric} of task {name} is {value}, but all log-likelihoods are finite: expected "
                        f"a finite number. Leave the task out, or give it more documents than limit={self.limit}"
                    )
        content = {
            "lm_eval": version("lm_eval"),
            "metrics": metrics,
            "higher_is_better": found["higher_is_better"],
            "tasks": {name: _described(name, found) for name in found["samples"]},
            "documents": _documents(samples),
        }
        plain: dict[str, Any] = json.loads(json.dumps(content, default=_plain))
        return plain

    def _not_finite(self, model: Model, which: str, task: str, sample: Mapping[str, Any]) -> str:
        bad = next(i for i, value in enumerate(_loglikelihoods(sample)) if not math.isfinite(value))
        text = "".join(part for part in sample["arguments"][bad] if isinstance(part, str))
        ids_BT = torch.tensor([model.tokenizer(text)["input_ids"][-(self.max_length or 0) :]])
        return (
            f"the {which} model's log-likelihood of request {bad} of document {sample['doc_id']} of task {task} is "
            f"{_loglikelihoods(sample)[bad]}: expected a finite number. The first NaN or infinity comes out of "
            f"{model.culprit(ids_BT)}. Try dtype=float32, or check its weights"
        )


def _name(metric: str, filtered: str) -> str:
    """The name of a metric: lm-eval's "acc,none" becomes "acc"; a real filter stays in the name: "exact_match,strict-match"."""
    return metric if filtered == "none" else f"{metric},{filtered}"


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a task's results. lm-eval writes "N/A" for an unknown standard error; it is left out."""
    keys = ((key, *key.partition(",")[::2]) for key in values if "," in key)
    return {
        _name(metric, filtered): float(values[key])
        for key, metric, filtered in keys
        if not isinstance(values[key], str)
    }


def _measures(
    dense: Mapping[str, Mapping[str, float]],
    pruned: Mapping[str, Mapping[str, float]],
    higher_is_better: Mapping[str, Mapping[str, bool | None]],
) -> Iterator[Measure]:
    """Every metric of every task and group, of both models, with its standard error; its direction is the one that lm-eval says."""
    for task, metrics in pruned.items():
        for metric, value in metrics.items():
            base, comma, filtered = metric.partition(",")
            if base.endswith("_stderr"):
                continue
            error = f"{base}_stderr{comma}{filtered}"
            errors = {
                w: of[task][error] for w, of in (("dense", dense), ("pruned", pruned)) if error in of.get(task, {})
            }
            better = BETTER[higher_is_better.get(task, {}).get(base)]
            unit, before = "fraction" if base in SHARES else "", dense.get(task, {}).get(metric)
            told = f"{task} {metric}".replace("_", " ")
            yield from both(f"{task}.{metric}", before, value, unit, better, told, 2 if unit else 4, errors=errors)


def _described(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    config = found["configs"][name]
    options = config.get("dataset_kwargs") or {}
    return {
        "num_fewshot": found["n-shot"][name],
        "version": found["versions"][name],
        "output_type": config["output_type"],
        "dataset": {key: config.get(f"dataset_{key}") for key in ("path", "name")}
        | {key: options[key] for key in ("data_files", "data_dir") if key in options},
        "n_samples": found["n-samples"][name],
    }


def _loglikelihoods(sample: Mapping[str, Any]) -> list[float]:
    """The log-likelihood of each request, in nats; none for generated text.

    lm-eval's response is (log-likelihood, is greedy), or the number alone for a whole text.
    """
    first = [responses[0] for responses in sample["resps"]]
    numbers = [response[0] if isinstance(response, tuple | list) else response for response in first]
    return [float(number) for number in numbers if isinstance(number, int | float)]


def _documents(samples: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One entry per task and document, which joins lm-eval's entries for the filters."""
    documents: dict[tuple[str, int], dict[str, Any]] = {}
    for task, sample in samples:
        entry = {"task": task, "document": sample["doc_id"], "doc_hash": sample["doc_hash"]}
        entry |= {"loglikelihoods": _loglikelihoods(sample), "metrics": {}}
        metrics = documents.setdefault((task, sample["doc_id"]), entry)["metrics"]
        metrics |= {_name(metric, sample["filter"]): _known(sample[metric]) for metric in sample["metrics"]}
    return list(documents.values())


def _known(value: Any) -> Any:
    """The value, or None for NaN, with which a task marks a document that a metric does not count."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _pairs(dense: Sequence[Mapping[str, Any]], pruned: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of documents.csv: the answers of both models. Raises `UserError` if their documents differ."""
    named = ("task", "document", "doc_hash")
    if [[entry[key] for key in named] for entry in dense] != [[entry[key] for key in named] for entry in pruned]:
        raise UserError(
            "the cached answers of the dense model are for other documents than the pruned model's: a data set of the hub has "
            "changed in between. Expected the same ones; set SPARSITY_CACHE to another folder to evaluate the dense model again"
        )
    metrics = dict.fromkeys(metric for entry in pruned for metric in entry["metrics"])
    for entries in zip(dense, pruned, strict=True):
        both = dict(zip(("dense", "pruned"), entries, strict=True))
        row = {key: entries[0][key] for key in named}
        for metric in metrics:  # the metrics of all tasks; a cell is empty if a task does not have the metric
            row |= {f"{metric}_{which}": _cell(entry["metrics"].get(metric)) for which, entry in both.items()}
        yield row | {f"loglikelihoods_{which}": _cell(entry["loglikelihoods"]) for which, entry in both.items()}


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _plain(value: Any) -> Any:
    """The value with NumPy's numbers and arrays converted to Python's."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

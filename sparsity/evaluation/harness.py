"""Runs lm-eval: loads its tasks and evaluates a model in memory, quietly, with the same numbers as the command `lm_eval`.

The parts of that command that compute nothing are left out: it looks for a git repository and starts pip and gcc to describe the
machine. For each model the global random generators start from the command's seeds, and they are restored afterwards. So the
few-shot examples are those of the command, and a task that samples text draws the same for both models. lm-eval's cache of
answers,
`use_cache`, is not used, because its keys do not include the model's weights.
"""

from __future__ import annotations

import copy
import logging
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
import torch

from ..core import UserError
from ..evaluator import Model
from ..variables import variables

SEEDS = (0, 1234, 1234, 1234)  # the seeds of the command lm_eval: python's random, numpy, torch, few-shot examples
Loaded = dict[str, dict[str, Any]]  # tasks, groups, group_map: lm_eval's TaskDict
Stamps = tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=2)
def manager(folder: Path | None, stock: bool, stamps: Stamps) -> Any:
    """lm-eval's task manager: it knows the tasks of a folder and, if `stock`, those of lm-eval, which takes about ten seconds.

    A task of the folder replaces the stock task with the same name. `stamps` makes a changed folder be read again.
    """
    from lm_eval.tasks import TaskManager

    with quiet(logging.ERROR):
        return TaskManager(include_path=folder and str(folder), include_defaults=stock)


def load(tasks: Any, names: Sequence[str], num_fewshot: int | None) -> Loaded:
    """The tasks with these names, including those of groups and tags, and their documents.

    Raises `UserError` for a task that cannot be loaded, or that needs more than text.
    """
    loaded: Loaded = {"tasks": {}, "groups": {}, "group_map": {}}
    with quiet(logging.ERROR), seeded():
        for name in names:
            try:
                found = tasks.load([name])
            except Exception as error:  # errors of the task's YAML, its functions, its data set or the hub
                raise UserError(
                    f"lm-eval cannot load task {name} ({type(error).__name__}: {_short(error)}). Without the hub, write task files "
                    f"over your own data, python -m sparsity.runs.tasks DATA_FOLDER TASKS_FOLDER, and name them: "
                    f"evaluation.lm_eval.tasks_path=TASKS_FOLDER"
                ) from error
            for part, content in found.items():
                loaded[part].update(content)
    for name, task in loaded["tasks"].items():
        for attribute in ("UNSAFE_CODE", "MULTIMODAL"):
            if getattr(task, attribute, False):
                raise UserError(
                    f"task {name} is {attribute} in lm-eval: it runs code that the model writes, or shows it images. "
                    f"Expected a task with text only; leave it out of evaluation.lm_eval.tasks"
                )
        # as in lm_eval.simple_evaluate: a task whose own number of examples is 0 always gets none
        default = task.get_config("num_fewshot")
        if num_fewshot is not None and default != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif default is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEEDS[3])
    return loaded


def evaluate(model: Model, loaded: Loaded, lm_options: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """The result of `lm_eval.evaluate`. The model and its tokenizer are unchanged afterwards.

    Raises `UserError` if a metric overflows, or if lm-eval refuses a text.
    """
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.models.huggingface import HFLM

    training = model.model.training
    try:
        with seeded():
            with quiet(logging.ERROR):
                # a copy, because HFLM adds a padding token, and this tokenizer is saved with the checkpoint
                lm = HFLM(pretrained=model.model, tokenizer=copy.deepcopy(model.tokenizer), **lm_options)
            with quiet(logging.WARNING), torch.no_grad():
                return cast(dict[str, Any], lm_evaluate(lm=lm, task_dict=loaded, log_samples=True, **options))
    except OverflowError as error:
        raise UserError(
            f"a metric of {', '.join(loaded['tasks'])} is too large for a float ({error}): expected a model whose predictions are "
            f"not completely wrong. Prune less, or leave out the tasks that measure a perplexity"
        ) from error
    except AssertionError as error:  # lm-eval asserts the lengths of texts
        raise UserError(
            f"lm-eval refuses a text of {', '.join(loaded['tasks'])} ({error or 'it is empty, or does not fit'}): expected every "
            f"answer to have tokens, fewer than evaluation.lm_eval.max_length={lm_options.get('max_length')}. Raise it, or leave "
            f"the task out"
        ) from error
    finally:
        model.model.train(training)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@contextmanager
def seeded() -> Iterator[None]:
    """A context with the global random generators seeded as the command lm_eval does. Afterwards they are restored."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is the global state that lm-eval draws from)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            random.setstate(random.Random(SEEDS[0]).getstate())
            np.random.set_state(np.random.RandomState(SEEDS[1]).get_state())  # noqa: NPY002
            torch.random.manual_seed(SEEDS[2])  # as far as the end of this block
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class _Sieve:
    """A stream that drops progress bars, which begin with a carriage return, and the announcement of a bootstrap."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        dropped = text.startswith(("\r", "bootstrapping for stddev"))
        if not dropped and not (self._dropped and text == "\n"):
            self._stream.write(text)
        self._dropped = dropped
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Once(logging.Filter):
    """A filter that lets each line of lm-eval's source warn only once, not for each request that is too long."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, int]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.pathname, record.lineno)
        new = place not in self.seen
        self.seen.add(place)
        return new


@contextmanager
def quiet(level: int) -> Iterator[None]:
    """A context in which lm-eval logs only messages of at least this level, draws no progress bars and starts no processes."""
    logger, requests, once = logging.getLogger("lm_eval"), logging.getLogger("lm_eval.models.huggingface"), _Once()
    before = logger.level
    logger.setLevel(level)
    requests.addFilter(once)
    with ExitStack() as stack:
        # otherwise the bootstrap would fork this process with its threads and its GPU context
        stack.enter_context(variables(DISABLE_MULTIPROC=1))
        stack.enter_context(redirect_stdout(cast(TextIO, _Sieve(sys.stdout))))
        stack.enter_context(redirect_stderr(cast(TextIO, _Sieve(sys.stderr))))
        try:
            yield
        finally:
            logger.setLevel(before)
            requests.removeFilter(once)

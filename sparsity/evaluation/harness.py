"""lm-eval, asked: its tasks loaded and its evaluator run on a model in memory, quietly, and with the numbers of its own command.

What `lm_eval` the command does besides computing is left out: it looks for a git repository and starts pip and gcc to describe the
machine. The global random generators start from the command's seeds for each model and are put back as they were found: the
examples are the command's, and a task that samples what it writes draws the same for both models. The cache of answers that lm-eval
has, `use_cache`, is not used: it does not know whose answers it holds.
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

from ..core import Model, UserError
from ..variables import variables

SEEDS = (0, 1234, 1234, 1234)  # of lm-eval's command: python's random, numpy, torch, few-shot examples
Loaded = dict[str, dict[str, Any]]  # tasks, groups, group_map: lm_eval's TaskDict
Stamps = tuple[tuple[str, int, int], ...]


@lru_cache(maxsize=2)
def manager(folder: Path | None, stock: bool, stamps: Stamps) -> Any:
    """What names mean: the tasks of a folder and, if `stock`, those of lm-eval, which take it some ten seconds to list.

    A task of the folder replaces the stock task of its name. `stamps` say which state of the folder was read.
    """
    from lm_eval.tasks import TaskManager

    with quiet(logging.ERROR):
        return TaskManager(include_path=folder and str(folder), include_defaults=stock)


def load(tasks: Any, names: Sequence[str], num_fewshot: int | None) -> Loaded:
    """Tasks, with those of groups and tags, and their documents. Raises `UserError` for a task that cannot be loaded."""
    loaded: Loaded = {"tasks": {}, "groups": {}, "group_map": {}}
    with quiet(logging.ERROR), seeded():
        for name in names:
            try:
                found = tasks.load([name])
            except Exception as error:  # its YAML, its functions, its data set, the hub
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
                    f"task {name} is {attribute} in lm-eval: it runs code that the model writes, or shows it more than text. "
                    f"Expected a task of text alone; leave it out of evaluation.lm_eval.tasks"
                )
        # as lm_eval.simple_evaluate does: a task that insists on no examples gets none
        default = task.get_config("num_fewshot")
        if num_fewshot is not None and default != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif default is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEEDS[3])
    return loaded


def evaluate(model: Model, loaded: Loaded, lm_options: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """`lm_eval.evaluate`. The model and its tokenizer are left as they were found."""
    from lm_eval.evaluator import evaluate as lm_evaluate
    from lm_eval.models.huggingface import HFLM

    training = model.model.training
    try:
        with seeded():
            with quiet(logging.ERROR):
                # a copy: a tokenizer that cannot pad is taught to, and this one goes into the checkpoint
                lm = HFLM(pretrained=model.model, tokenizer=copy.deepcopy(model.tokenizer), **lm_options)
            with quiet(logging.WARNING), torch.no_grad():
                return cast(dict[str, Any], lm_evaluate(lm=lm, task_dict=loaded, log_samples=True, **options))
    except OverflowError as error:
        raise UserError(
            f"a metric of {', '.join(loaded['tasks'])} is larger than any float ({error}): expected a model that is not broken "
            f"altogether. Prune less, or leave out the tasks that measure a perplexity"
        ) from error
    except AssertionError as error:  # about the lengths of texts
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
    """The global generators as lm-eval's command seeds them, and afterwards as they were."""
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
    """A stream without progress bars, which begin with a carriage return, and without the announcement of a bootstrap."""

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
    """Every line of lm-eval's source warns once: not of each request that is too long."""

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
    """lm-eval says what is at least of this level, each thing once; it draws no bars and starts no processes."""
    logger, requests, once = logging.getLogger("lm_eval"), logging.getLogger("lm_eval.models.huggingface"), _Once()
    before = logger.level
    logger.setLevel(level)
    requests.addFilter(once)
    with ExitStack() as stack:
        # the bootstrap would fork this process, threads and GPU and all
        stack.enter_context(variables(DISABLE_MULTIPROC=1))
        stack.enter_context(redirect_stdout(cast(TextIO, _Sieve(sys.stdout))))
        stack.enter_context(redirect_stderr(cast(TextIO, _Sieve(sys.stderr))))
        try:
            yield
        finally:
            logger.setLevel(before)
            requests.removeFilter(once)

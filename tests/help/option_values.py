"""Every option of every yaml in conf/, a command that runs with it on a tiny model, and values that no option is meant to have.

Left out: conf/hydra, whose options are Hydra's own, and conf/experiment, which sets options of the other groups.
"""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from checkpoints import save, tiny
from commands import MEASURED, SMALL, UNMEASURED
from composing import LISTS, OPTIONS, compose
from omegaconf import DictConfig, OmegaConf
from task_data import DATA, lay_out
from tasks_asked import asked

from sparsity.options.components import targets
from sparsity.options.settings import Settings
from sparsity.record.groups import COMPONENTS, SHARED

# As they are typed, and as Hydra reads them.
VALUES: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "0": 0,
    "-1": -1,
    "1e30": 1e30,
    "text": "text",
    "null": None,
    "[1,2]": [1, 2],
    str(10**12): 10**12,
    str(10**23): 10**23,
}
PARTS = 20  # of all cases: `make test` runs one, another one every day
EVERY = [("config", "config"), *((group, option) for group, names in OPTIONS.items() for option in names)]

# What would need a network: how far one comes without is known where the options are read.
UNREACHED = {(group, option) for group in ("model", "reference") for option in ("hub", "smollm2")}
# trackio keeps the runs of one process in one folder
UNMOVED = {"tracker.trackio.folder"}


@dataclass(frozen=True)
class Case:
    path: str  # the option's: "method.base.scope"
    value: str  # one of VALUES

    @property
    def word(self) -> str:
        return f"{self.path}={self.value}"


def today() -> int:
    """Which of the parts, from 0: the number of the day decides."""
    return int(time.time() // 86400) % PARTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = (report.nodeid for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome))
    if any("test_part_of_the_options" in node for node in ran):
        terminalreporter.write_line(f"options: part {today() + 1} of {PARTS} by the date; make test-options runs all")


def command_for(group: str, option: str) -> list[str]:
    """The words of a run in a folder that `furnish` made, in which this option is chosen and read."""
    words = [word for word in SMALL if word.partition("=")[0] != group]
    chosen = {"config": [], "tfidf": ["method=neuronrank_tfidf", f"tfidf={option}"]}.get(
        group, [f"{group}={[option] if group in LISTS else option}".replace("'", "")]
    )
    measured = {
        "perplexity": MEASURED,
        "wikitext2_2048": MEASURED,
        "divergence": ("evaluation.divergence.seqlen=32", "evaluation.divergence.windows=6"),
        "cost": ("evaluation.cost.seqlen=16", "evaluation.cost.repeats=1"),
        "generation": ("evaluation.generation.max_new_tokens=4",),
        "lm_eval": asked("piqa", bootstrap_iters=0)[1:],
    }
    evaluated = measured.get(option, ()) if group == "evaluation" else () if group == "reference" else (UNMEASURED,)
    more = {
        ("model", "hub"): ["model.name=nobody/nothing"],
        ("model", "local"): ["model.path=checkpoint"],
        ("reference", "hub"): ["reference.name=nobody/nothing"],
        ("reference", "local"): ["reference.path=checkpoint"],
        ("tracker", "wandb"): ["tracker.wandb.mode=disabled"],
    }.get((group, option), [])
    if group == "reference":
        more = [*more, *MEASURED]
    if group == "dataset":
        words = [word for word in words if not word.startswith("dataset.")]
        if "repo" in compose(f"dataset={option}").dataset:
            files = [f"dataset.{part}={part}.jsonl" for part in ("calibration", "evaluation")]
            more = ["dataset.repo=repository", *files, "dataset.field=text"]
            more += [f"dataset.{part}_documents=null" for part in ("calibration", "evaluation")]
        elif option != "pydocs":
            more = ["dataset.calibration=calibration.txt", "dataset.evaluation=evaluation.txt"]
    if group == "recover":
        more = ["calibration.batch_size=1"]
    if group == "refine":
        more = ["calibration.batch_size=1", "method=wanda"]
    if group in ("config", "tracker", "model", "reference", "dataset", "evaluation", "calibration"):
        more = [*more, "method=wanda"]
    return [*words, *chosen, *evaluated, *more]


def furnish(folder: Path) -> None:
    """What the commands read beside the texts of `workplace`."""
    save(tiny(), folder / "checkpoint")
    (folder / "repository").mkdir()
    for part in ("calibration", "evaluation"):
        text = (folder / f"{part}.txt").read_text()
        (folder / "repository" / f"{part}.jsonl").write_text(f'{{"text": "{text}"}}\n')


def furnish_tasks(folder: Path) -> None:
    from sparsity.runs.tasks import write  # heavy, and one evaluation alone reads them

    write(lay_out(folder / "data", DATA), folder / "tasks")


def paths(group: str, option: str) -> list[str]:
    """Where the options of this file stand, in the configuration of its command."""
    config = OmegaConf.to_container(compose(*command_for(group, option)))
    assert isinstance(config, dict)
    if group == "config":
        known = {name: config[name] for name in Settings.model_fields if name not in OPTIONS}
        return [*_leaves("", known)]
    if group in ("calibration", *SHARED):
        return [*_leaves(group, {key: value for key, value in config[group].items() if not key.startswith("_")})]
    assert group in COMPONENTS
    found = []
    for path, node in targets(group, config[group]):
        own = {key: value for key, value in node.items() if not str(key).startswith("_") and not _component(value)}
        found += [*_leaves(path, own)]
    return found


def _component(value: Any) -> bool:
    """A part that is chosen, not an option: `base`, `routes`, or another group's options by reference."""
    return isinstance(value, dict) or value in [f"${{{group}}}" for group in SHARED]


def _leaves(path: str, node: Any) -> Iterator[str]:
    if not isinstance(node, dict):
        yield path
        return
    for key, value in node.items():
        yield from _leaves(f"{path}.{key}" if path else str(key), value)


def cases(group: str, option: str) -> list[Case]:
    return [Case(path, value) for path in paths(group, option) for value in VALUES]


def configured(group: str, option: str, case: Case) -> DictConfig:
    """What `python run.py` composes of the command and the case."""
    config = copy.deepcopy(compose(*command_for(group, option)))
    OmegaConf.update(config, case.path, VALUES[case.value], merge=False)
    return config


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises `TimeoutError` if it takes longer. What waits in one call of a library is not interrupted before that returns."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"not finished within {seconds} seconds")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

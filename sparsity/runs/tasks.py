"""Write task files for lm-eval over data on this machine: python -m sparsity.runs.tasks DATA_FOLDER TASKS_FOLDER

DATA_FOLDER holds a folder of .jsonl files for each task, such as piqa/validation.jsonl. The task files name the installed lm-eval
and the data by absolute paths, so they are valid on this machine only; write them again on another one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..evaluation.local_tasks import local_tasks
from ..record.console import say
from ..record.store import RunStore
from ..user_error import UserError

HEADER = "# Written by `python -m sparsity.runs.tasks"


def write(data: Path, tasks: Path) -> None:
    """Write one file for each task that has data, replacing earlier files. Prints a line about every task.

    Raises `UserError` if no task has data, or if it would replace a file that this command did not write.
    """
    found = list(local_tasks(data))
    if not any(local.options for local in found):
        reasons = "; ".join(f"{local.task}: {local.said}" for local in found)
        raise UserError(f"{data} holds data of no task: expected a folder such as piqa/ with .jsonl files. {reasons}")
    for local in found:
        path = tasks / f"{local.task}.yaml"
        if path.exists() and not path.read_text(encoding="utf-8").startswith(HEADER):
            raise UserError(
                f"{path} was not written by this command: expected to replace its own files. Choose another folder"
            )
    tasks.mkdir(parents=True, exist_ok=True)
    for local in found:
        if local.options is None:
            (tasks / f"{local.task}.yaml").unlink(missing_ok=True)
        else:
            content = yaml.safe_dump(dict(local.options), sort_keys=False, width=1000)
            RunStore(tasks).text(f"{local.task}.yaml", f"{HEADER} {data} {tasks}`, for this machine.\n{content}")
        say(f"{'skipped' if local.options is None else 'written'}  {local.task}: {local.said}")
    other = [local.task for local in found if not local.own_examples]
    if other:
        say(f"without a train.jsonl, examples (num_fewshot > 0) are not those of the stock task: {', '.join(other)}")
    names = ",".join(local.task for local in found if local.options)
    say(f"use:  evaluation=[lm_eval] evaluation.lm_eval.tasks_path={tasks} evaluation.lm_eval.tasks=[{names}]")


def main(words: Sequence[str], name: str = "python -m sparsity.runs.tasks") -> int:
    """Run the command. Returns the exit status: 0, or 1 after a mistake, which is printed. `name`: its name in the help."""
    parser = argparse.ArgumentParser(prog=name, description="Write task files for lm-eval over data on this machine.")
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER", help="holds a folder of .jsonl files for each task")
    parser.add_argument("tasks", type=Path, metavar="TASKS_FOLDER", help="made if it is not there")
    arguments = parser.parse_args(words)
    try:
        write(arguments.data.expanduser(), arguments.tasks.expanduser())
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

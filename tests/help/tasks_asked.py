"""The options with which commands and tests run lm-eval on the task files in tasks/."""

from __future__ import annotations

import json
from pathlib import Path

from sparsity.evaluation import LMEval

OPTIONS = {"limit": None, "num_fewshot": None, "batch_size": 1, "max_length": None, "apply_chat_template": False}


def asked(*names: str, **options: object) -> list[str]:
    given = {"tasks": f"[{','.join(names)}]", "tasks_path": "tasks", **options}
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return ["evaluation=[lm_eval]", *(f"evaluation.lm_eval.{key}={value}" for key, value in words.items())]


def evaluator(*names: str, **options: object) -> LMEval:
    return LMEval(**{"tasks": [*names], "tasks_path": "tasks", **OPTIONS, "bootstrap_iters": 0, **options})


def edited(path: str, old: str, new: str) -> None:
    assert old in Path(path).read_text()
    Path(path).write_text(Path(path).read_text().replace(old, new))

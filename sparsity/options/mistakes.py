"""The kinds of mistakes in the options, and the next step for each: the nearest names, or what to write instead.

Mistakes that the words of the command line show by themselves are found earlier, by `meant`.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ..record.started import started
from ..user_error import UserError

MISTAKES = (UserError, HydraException, OmegaConfBaseException)

# Names in other programs, such as Wanda's and SparseGPT's scripts, and our names for them.
ELSEWHERE = {
    "sparsity_ratio": "sparsity", "ratio": "sparsity", "prune_method": "method", "sparsity_type": "pattern=2of4",
    "nsamples": "calibration.num_sequences", "n_samples": "calibration.num_sequences", "samples": "calibration.num_sequences",
    "percdamp": "method.damp", "blocksize": "method.width", "prunen": "pattern.n", "prunem": "pattern.m",
    "model_name": "model.name", "model_path": "model.path", "save_model": "save=true", "dry_run": "plan=true",
    "output": "hydra.run.dir", "output_dir": "hydra.run.dir", "out": "hydra.run.dir", "verbose": "hydra.verbose=true",
    "layers": "scope.last_blocks", "eval": "evaluation", "tasks": "evaluation.lm_eval.tasks", "data": "dataset",
    "force": "rerun=true", "overwrite": "rerun=true", "batch": "calibration.batch_size", "experiments": "experiment",
}  # fmt: skip
# Words for what happens without any word.
NEEDLESS = {"resume": "A run that was interrupted resumes when the same command is started again"}
# The extra of pyproject.toml that a launcher or a sweeper needs.
EXTRAS = {"joblib": "sweep", "submitit_local": "sweep", "submitit_slurm": "sweep", "ray": "ray", "optuna": "optuna"}

WIKITEXT = (
    "WikiText-2 raw is two text files in one folder: wiki.valid.raw for calibration and wiki.test.raw for evaluation. Name the "
    "folder: WIKITEXT2_RAW=FOLDER. Without these files: dataset=wikitext2 reads WikiText-2 from the Hugging Face hub, or from the "
    "hub's cache on this machine; dataset=text reads two files of your own"
)


def alternatives(key: str, keys: Collection[str], homes: Sequence[str] = ()) -> str:
    """The keys nearest to `key`, and the options beside it. `homes`: the options that have this key and were not chosen."""
    parent, _, name = key.rpartition(".")
    beside = [k for k in keys if k.rpartition(".")[0] == parent]
    if not beside:
        parent, beside = "", [k for k in keys if "." not in k]
    listed = f"\nOptions{f' of {parent}' if parent else ''}: {', '.join(sorted(beside))}"
    if name in NEEDLESS:
        return f" {NEEDLESS[name]}"
    known = [ELSEWHERE[name.lower()]] if name.lower() in ELSEWHERE else []
    alike = [k for k in keys if k.rpartition(".")[2] == name] if not parent else []
    if homes and not known:
        return f" {'It exists with' if '.' in key else 'Did you mean'} {' or '.join(homes)}{'.' if '.' in key else '?'}{listed}"
    close = [*known, *alike, *([] if known else difflib.get_close_matches(key, keys, n=3))]
    hint = f"\nDid you mean: {', '.join(dict.fromkeys(close[:5]))}?" if close else ""
    return hint + listed


def no_option(group: str, value: str, options: Collection[str], is_list: bool = False) -> str:
    """The message that there is no `group=value`, with similar names and all options. `is_list`: several can be chosen."""
    if group in ("hydra/launcher", "hydra/sweeper") and value in EXTRAS:
        return f'{group}={value} needs a package that is not installed: pip install "sparsity-lab[{EXTRAS[value]}]"'
    return f"There is no {group}={value}.{_meant(group, value, options, is_list)}{_listed(group, options)}"


def _meant(group: str, value: str, options: Collection[str], is_list: bool) -> str:
    if value.lower() in ("", "null", "none", "false", "off", "no", "~"):
        nothing = f"{group}=[]" if is_list else f"{group}=none" if "none" in options else ""
        return f" For none at all: {nothing}" if nothing else " Choose one of its options."
    if group in ("model", "reference") and not (close := _close(value, options)):
        if _is_path(value):
            return f" For a checkpoint folder: {group}=local {group}.path={value}"
        return f" For a model of the Hugging Face hub: {group}=hub {group}.name={value}"
    if group == "calibration" and _is_path(value):
        return f" For a text file: dataset=text dataset.calibration={value} dataset.evaluation=ANOTHER_FILE"
    if group == "dataset" and _is_path(value):
        return " For text files: dataset=text dataset.calibration=FILE dataset.evaluation=ANOTHER_FILE"
    if group == "calibration" and value.isdigit():
        return f" For so many sequences: calibration.num_sequences={value}"
    if group == "pattern" and (ratio := re.fullmatch(r"(\d+) ?(?:[:/x-]|_?of_?) ?(\d+)", value)):
        n, m = ratio.groups()
        named = f"pattern={n}of{m}" if f"{n}of{m}" in options else f"pattern=n_of_m pattern.n={n} pattern.m={m}"
        return f" For {n} weights kept of every {m}: {named}"
    close = _close(value, options)
    return f" Did you mean {' or '.join(f'{group}={name}' for name in close)}?" if close else ""


def _listed(group: str, options: Iterable[str]) -> str:
    names = ", ".join(options)
    return f"\nOptions of {group}: {names}" + (
        "" if "/" in group else f"\nWhat they do: {shlex.join(started())} help {group}"
    )


def _close(value: str, options: Iterable[str]) -> list[str]:
    """Up to three options with a similar name; only one if it differs just in capitals, dots and dashes."""
    plain = {re.sub(r"[\W_]", "", name.lower()): name for name in options}
    name = re.sub(r"[\W_]", "", value.lower())
    return [plain[name]] if name in plain else [plain[n] for n in difflib.get_close_matches(name, plain, n=3)]


def _is_path(value: str) -> bool:
    """True for a path, False for a name on the hub (owner/model). The name of an existing file or folder is a path."""
    return (
        re.search(r"\.(txt|jsonl?|parquet|raw|gz|csv|safetensors|gguf)$", value) is not None
        or value.startswith((".", "/", "~"))
        or value.endswith("/")
        or value.count("/") > 1
        or "\\" in value
        or Path(value).exists()
    )


def next_step(message: str) -> str:
    """The next step after a message that does not name one. Empty if the message names it."""
    if share := re.search(r"(?<![\w.])sparsity=(\d+(?:\.\d+)?) ?(%?) is not valid", message):
        percent = float(share.group(1))
        if percent < 100 and (percent > 1 or share.group(2)):
            return f". Sparsity is a fraction of the weights. Did you mean sparsity={percent / 100:g}?"
    if re.search(r"wiki\.(valid|test)\.raw does not exist", message):
        return f"\n{WIKITEXT}"
    return ""

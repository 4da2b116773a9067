"""Unit, direction and heading of the numbers that a run's stages write into result.json, and of older evaluations' numbers.

The table is read for every number that is not declared as a measure: the stages' own numbers (sparsity, errors, seconds, memory),
and all numbers of a folder that is older than measures. Today's evaluators declare their measures themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..measures import Better, Measure
from .numbers import is_number, numbers


@dataclass(frozen=True)
class Known:
    """Unit, direction and heading of all numbers whose path matches `path`, where `*` matches anything. The first match counts."""

    path: str
    unit: str = ""
    better: Better | None = None
    digits: int = 4
    heading: str = ""  # "" for the words of the path
    folded: bool = False


# Sections of result.json that hold findings. The settings of a run and of its evaluations are not measures.
SECTIONS = (
    "perplexity", "sparsity", "layers", "evaluation", "blocks", "recovery", "seconds", "peak_memory_bytes",
    "peak_device_memory_bytes",
)  # fmt: skip
# Keys of an evaluation's summary that are its settings.
ASKED = {
    "seqlen", "windows", "tokens", "batch_size", "limit", "max_length", "max_new_tokens", "prompts", "tasks", "lm_eval",
    "apply_chat_template",
}  # fmt: skip
UNMEASURED = ("sparsity.weights", "sparsity.zeros", "sparsity.layers", "layers.pruned", "layers.all", "blocks.refined",
              "blocks.block_mean", "evaluation.perplexity.dense", "evaluation.perplexity.pruned")  # fmt: skip
KNOWN = (
    Known("perplexity.dense", "", "smaller", 2, "ppl dense"),
    Known("perplexity.pruned", "", "smaller", 2, "ppl pruned"),
    Known("sparsity.asked", "fraction", None, 2, "sparsity asked", True),
    Known("sparsity.found", "fraction", None, 2, "sparsity found"),
    Known("layers.error_before_mean", "", "smaller", 4, "layer error before correction", True),
    Known("layers.relative_error_mean", "", "smaller", 4, "layer error"),
    Known("layers.held_out_error_mean", "", "smaller", 4, "held-out layer error"),
    Known("layers.corrector_seconds_mean", "s", "smaller", 4, folded=True),
    Known("layers.*", folded=True),
    Known("blocks.seconds_mean", "s", "smaller", 1, "seconds of a block's tuning", True),
    *(Known(f"blocks.{name}_mean", "", "smaller", folded=True)  # relative errors
      for name in ("error_before", "error", "held_out_before", "held_out")),
    Known("blocks.*", digits=1, folded=True),
    *(Known(f"recovery.{name}", "nats", "smaller", folded=True)  # divergences from the dense model
      for name in ("kl_before", "kl", "held_out_before", "held_out")),
    Known("recovery.*", folded=True),
    Known("seconds.*", "s", "smaller", 1, folded=True),
    Known("peak_memory_bytes", "bytes", "smaller", 2, "peak memory"),
    Known("peak_device_memory_bytes", "bytes", "smaller", 2, "peak device memory"),
    # numbers of evaluations in older folders
    Known("evaluation.*.kl", "nats", "smaller"),
    Known("evaluation.*.agreement", "fraction", "larger", 2),
    Known("evaluation.*.common_tokens", "tokens", "larger", 1),
    Known("evaluation.*.parameters", digits=0, folded=True),
    Known("evaluation.*.nonzero", "", "smaller", 0, folded=True),
    Known("evaluation.*.bytes", "bytes", "smaller"),
    Known("evaluation.*.bytes_packed", "bytes", "smaller"),
    Known("evaluation.*.tokens_per_second", "tokens/s", "larger", 1),
    Known("evaluation.*.semi_structured.seconds_*", "s", "smaller"),
    *(Known(f"evaluation.*.{name}{filtered}", "fraction", "larger", 2)
      for name in ("acc", "acc_norm", "exact_match", "f1") for filtered in ("", ",*")),
    *(Known(f"evaluation.*.{name}", "", "smaller")
      for name in ("word_perplexity", "byte_perplexity", "perplexity", "bits_per_byte", "brier_score")),
)  # fmt: skip
PLAIN = Known("*")
# Units of the columns of layers.csv.
COLUMNS = {"sparsity_asked": "fraction", "sparsity_found": "fraction", "seconds": "s", "corrector_seconds": "s"}
SPREAD = re.compile(r"_stderr(?=,|$)")  # standard errors of lm-eval: "acc_stderr", "exact_match_stderr,strict-match"


def stated(content: Mapping[str, Any]) -> list[Measure]:
    """The measures among the numbers of a result, in the order of `SECTIONS`."""
    found = []
    for section in SECTIONS:
        known = dict(numbers({section: content.get(section)}, "."))
        errors = {SPREAD.sub("", path): value for path, value in known.items() if SPREAD.search(path)}
        for path, value in known.items():
            if path not in UNMEASURED and not SPREAD.search(path) and not _asked(path):
                found.append(_measure(path, value, errors.get(path)))
    return found


def unstated(name: str, summary: Mapping[str, Any]) -> Iterator[Measure]:
    """The measures of an evaluator that declares none: all numbers of its summary, shown plainly."""
    for path, value in numbers({name: summary}, "."):
        if is_number(value) and not _asked(f"evaluation.{path}"):
            yield Measure(f"evaluation.{path}", value, digits=PLAIN.digits)


def _asked(path: str) -> bool:
    """True if a number is a setting of an evaluation: evaluation.<name>.seqlen."""
    section, _, rest = path.partition(".")
    return section == "evaluation" and rest.partition(".")[2].partition(".")[0] in ASKED


def _measure(path: str, value: int | float, error: float | None) -> Measure:
    known = next((one for one in KNOWN if fnmatchcase(path, one.path)), PLAIN)
    heading, folded = known.heading, known.folded
    section, *rest = path.split(".")
    if section == "evaluation" and len(rest) > 2 and rest[1] in ("dense", "pruned"):  # a number that both models have
        heading = " ".join([*rest[2:], *(["dense"] if rest[1] == "dense" else [])]).replace("_", " ")
        folded |= rest[1] == "dense"
    elif not heading and section != "evaluation":
        heading = " ".join(rest).replace("_", " ").removesuffix(" mean")
    return Measure(path, value, known.unit, known.better, heading, known.digits, folded, error)

"""The measures of a run: every number of its result, by name, and the unit in which it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..record.numbers import numbers
from .read import Run, at, number, section


@dataclass(frozen=True)
class Measure:
    """The heading and the format of a number. `unit`: "", "%" (a fraction), "s", "bytes". `fold`: shown only on request."""

    key: str
    heading: str
    unit: str = ""
    digits: int = 2
    fold: bool = False


KNOWN = (
    Measure("perplexity.dense", "ppl dense"),
    Measure("perplexity.pruned", "ppl pruned"),
    Measure("rise", "rise", "%", 1),
    Measure("sparsity.asked", "sparsity asked", "%", fold=True),
    Measure("sparsity.found", "sparsity found", "%"),
    Measure("layers.error_before_mean", "layer error before correction", "", 4, fold=True),
    Measure("layers.relative_error_mean", "layer error", "", 4),
    Measure("seconds.total", "time", "s", 0),
    Measure("peak_memory_bytes", "peak memory", "bytes"),
    Measure("peak_device_memory_bytes", "peak device memory", "bytes"),
)
PERPLEXITY = "perplexity.pruned"
SHARES = ("acc", "agreement", "exact_match")  # fractions, shown in percent
WHOLE = ("parameters", "nonzero")
SETTINGS = {
    "seqlen", "windows", "tokens", "batch_size", "limit", "max_length", "max_new_tokens", "prompts", "tasks", "lm_eval",
}  # fmt: skip


def measured(run: Run) -> dict[str, float | None]:
    """Every number of a run by its key; None if the run does not have it."""
    result = run.result
    dense, pruned = (number(at(result, f"perplexity.{which}")) for which in ("dense", "pruned"))
    stages = {f"seconds.{stage}": seconds for stage, seconds in numbers(result.get("seconds"), ".")}
    found: dict[str, float | None] = {
        **{measure.key: number(at(result, measure.key)) for measure in KNOWN},
        "rise": pruned / dense - 1 if dense and pruned is not None else None,
        "seconds.total": sum(stages.values()) if stages else None,
        **stages,
    }
    for name, summary in section(result, "evaluation").items():
        if name != "perplexity":  # perplexity has its own columns, and its window length belongs to the protocol
            found |= {f"{name}.{path}": value for path, value in numbers(summary, ".") if not _is_setting(path)}
    found |= {f"layers.{k}": v for k, v in numbers(result.get("layers"), ".") if k.startswith("corrector_")}
    return found


def measures(rows: Sequence[Mapping[str, float | None]]) -> list[Measure]:
    """The measures that at least one run has, in a fixed order: those in KNOWN, then evaluations, then stages."""
    present = dict.fromkeys(key for row in rows for key, value in row.items() if value is not None)
    known = {measure.key for measure in KNOWN}
    others = sorted(
        (key for key in present if key not in known), key=lambda key: key.startswith(("seconds.", "layers."))
    )
    return [measure for measure in KNOWN if measure.key in present] + [_other(key) for key in others]


def _other(key: str) -> Measure:
    group, *path = key.split(".")
    plain = " ".join(path).replace("_", " ")
    if group == "seconds":
        return Measure(key, plain, "s", 1, fold=True)
    if group == "layers":
        return Measure(key, plain.removesuffix(" mean"), "", 4, fold=True)
    which, last = (path[0] if path[0] in ("dense", "pruned") else None), path[-1]
    heading = " ".join([*path[1:], *([] if which == "pruned" else ["dense"])] if which else [group, *path])
    unit = "bytes" if "bytes" in last else "s" if last.startswith("seconds") else "%" if last.startswith(SHARES) else ""
    digits = 0 if last in WHOLE else 1 if last == "tokens_per_second" else 2 if unit else 4
    return Measure(key, heading, unit, digits, fold=which == "dense" or "stderr" in last or last in WHOLE)


def _is_setting(path: str) -> bool:
    """True for an entry that an evaluator reports about its settings, which is no measurement."""
    return path.partition(".")[0] in SETTINGS

"""The files of a sweep: each point writes `.points/<number>.json` when it ends, and then writes `sweep.csv` anew from all of these.

Nothing is kept in memory, because points may run in other processes, started by any launcher.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from ..record.store import RunStore, csv_text

POINTS = ".points"
TYPED = "typed.json"
ASKING = ("method", "corrector", "tfidf", "layer_error")  # options that decide which statistics are needed
MOST = 48  # compositions at most: each takes 0.1 s, together as long as a pass over a small model
TABLE = "sweep.csv"
# Sections of result.json whose numbers become columns, in addition to all measures. The options have columns of their own.
FOUND = ("perplexity", "evaluation", "sparsity", "layers", "seconds")


@dataclass(frozen=True)
class Point:
    """A point of a sweep that has ended."""

    number: int
    words: Sequence[str]  # the overrides that differ between points: "sparsity=0.6"
    folder: str | None  # the folder of its result, which may belong to an earlier sweep
    error: str | None  # None if it finished


def note(sweep: Path, point: Point) -> None:
    """Record that a point ended, and write sweep.csv with all points that ended so far."""
    folder = sweep / POINTS
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        RunStore(folder).json(f"{point.number}.json", asdict(point))
        RunStore(sweep).text(TABLE, csv_text([_row(sweep, point) for point in points(sweep)]))


def points(sweep: Path) -> list[Point]:
    """All points that ended, in the order of their numbers."""
    found = [Point(**json.loads(file.read_text(encoding="utf-8"))) for file in (sweep / POINTS).glob("[0-9]*.json")]
    return sorted(found, key=lambda point: point.number)


def own(sweep: Path, words: Sequence[str]) -> list[str]:
    """The overrides of a point that differ between points. Read from typed.json, because a worker's argv is not the user's."""
    typed = json.loads((sweep / POINTS / TYPED).read_text(encoding="utf-8"))["words"]
    parser = OverridesParser.create()
    fixed = {override.key_or_group for override in parser.parse_overrides(typed) if not override.is_sweep_override()}
    return [word for word in words if parser.parse_override(word).key_or_group not in fixed]


def kin(sweep: Path, words: Sequence[str]) -> list[list[str]]:
    """Override lists of the sweep's other points, to find which statistics they need. At most `MOST`."""
    swept = json.loads((sweep / POINTS / TYPED).read_text(encoding="utf-8"))["asking"]
    fixed = [word for word in words if word.partition("=")[0] not in swept]
    grid = product(*([f"{key}={value}" for value in values] for key, values in swept.items()))
    return [[*fixed, *point] for point in islice(grid, MOST)]


def _asking(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of the swept options that decide which statistics are needed (`ASKING`), by option."""
    return {
        override.get_key_element(): list(override.sweep_string_iterator())
        for override in OverridesParser.create().parse_overrides(list(words))
        if override.is_discrete_sweep() and override.key_or_group.partition("@")[0].partition(".")[0] in ASKING
    }


def _row(sweep: Path, point: Point) -> dict[str, Any]:
    row: dict[str, Any] = {
        "point": point.number,
        "status": "failed" if point.error else "finished",
        "error": point.error,
    }
    row |= dict(word.lstrip("+").partition("=")[::2] for word in point.words)
    if point.folder is not None:
        from ..record.result import read  # imports pydantic, which --help does not need

        result = read(Path(point.folder))
        if result:
            row |= result.numbers(*FOUND) | {measure.name: measure.value for measure in result.measures}
            row["mask_sha256"] = result.keep_sha256
        row["folder"] = point.folder
    return row


class Sweeps(Callback):
    """A callback of Hydra that prepares the sweep's folder, in the process that the user started."""

    last: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        sweep = Path(config.hydra.sweep.dir).absolute()
        try:
            shutil.rmtree(sweep / POINTS, ignore_errors=True)  # points of an earlier sweep in this folder
            (sweep / POINTS).mkdir(parents=True)
            (sweep / TABLE).unlink(missing_ok=True)
            words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
            params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
            RunStore(sweep / POINTS).json(TYPED, {"words": words, "asking": _asking([*params, *words])})
        except OSError:  # Hydra will fail in the same way, with a better message
            return
        Sweeps.last = sweep


def told() -> Iterator[str]:
    """Yield the summary of a sweep: which points failed and why, and the path of the table. Nothing if there was no sweep."""
    if Sweeps.last is None or not (Sweeps.last / TABLE).exists():
        return
    ended = points(Sweeps.last)
    failed = [point for point in ended if point.error]
    for point in failed:
        yield f"#{point.number} {' '.join(point.words)} failed: {point.error}"
    yield f"{len(ended) - len(failed)} of {len(ended)} points finished: {Sweeps.last / TABLE}"
    yield f"to compare them: python -m sparsity.report {shlex.quote(str(Sweeps.last))}"

"""A sweep's own files, whoever launched its points and wherever they ran: `.points/<number>.json`, written by each when it ends,
and `sweep.csv`, put together from all of them each time. Nothing here is kept in memory: points may run in other processes.
"""

from __future__ import annotations

import json
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
ASKING = ("method", "corrector", "tfidf", "layer_error")  # options that say what must be known of a layer
MOST = 48  # compositions, a tenth of a second each: what a walk over a small model takes
TABLE = "sweep.csv"
# Sections of result.json whose numbers are columns, besides all measures. Its settings stand in the columns of the options.
FOUND = ("perplexity", "evaluation", "sparsity", "layers", "seconds")


@dataclass(frozen=True)
class Point:
    number: int
    words: Sequence[str]  # its own: "sparsity=0.6"
    folder: str | None  # of its result, which may be that of an earlier sweep
    error: str | None  # None: finished


def note(sweep: Path, point: Point) -> None:
    """The point ended. sweep.csv then has all that ended so far."""
    folder = sweep / POINTS
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        RunStore(folder).json(f"{point.number}.json", asdict(point))
        RunStore(sweep).text(TABLE, csv_text([_row(sweep, point) for point in points(sweep)]))


def points(sweep: Path) -> list[Point]:
    """All that ended, by their numbers."""
    found = [Point(**json.loads(file.read_text(encoding="utf-8"))) for file in (sweep / POINTS).glob("[0-9]*.json")]
    return sorted(found, key=lambda point: point.number)


def own(sweep: Path, words: Sequence[str]) -> list[str]:
    """Of a point's words those that other points do not share. What was typed is in a file: workers are started otherwise."""
    typed = json.loads((sweep / POINTS / TYPED).read_text(encoding="utf-8"))["words"]
    parser = OverridesParser.create()
    fixed = {override.key_or_group for override in parser.parse_overrides(typed) if not override.is_sweep_override()}
    return [word for word in words if parser.parse_override(word).key_or_group not in fixed]


def kin(sweep: Path, words: Sequence[str]) -> list[list[str]]:
    """What to compose in the place of one point's words to hear what the others will ask of the text: `MOST` at most."""
    swept = json.loads((sweep / POINTS / TYPED).read_text(encoding="utf-8"))["asking"]
    fixed = [word for word in words if word.partition("=")[0] not in swept]
    grid = product(*([f"{key}={value}" for value in values] for key, values in swept.items()))
    return [[*fixed, *point] for point in islice(grid, MOST)]


def _asking(words: Sequence[str]) -> dict[str, list[str]]:
    """The values of those options that a grid runs through and that say what must be known."""
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
        from ..record.result import read  # with pydantic, for which --help does not wait

        result = read(Path(point.folder))
        if result:
            row |= result.numbers(*FOUND) | {measure.name: measure.value for measure in result.measures}
            row["mask_sha256"] = result.keep_sha256
        row["folder"] = point.folder
    return row


class Sweeps(Callback):
    """Told by Hydra, in the process that was started, where the sweep's files will be."""

    last: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        sweep = Path(config.hydra.sweep.dir).absolute()
        try:
            shutil.rmtree(sweep / POINTS, ignore_errors=True)  # of an earlier sweep in this folder
            (sweep / POINTS).mkdir(parents=True)
            (sweep / TABLE).unlink(missing_ok=True)
            words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
            params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
            RunStore(sweep / POINTS).json(TYPED, {"words": words, "asking": _asking([*params, *words])})
        except OSError:  # Hydra is about to find the same, and says it better
            return
        Sweeps.last = sweep


def told() -> Iterator[str]:
    """At the end of a sweep: what failed and why, and where the table is. Nothing if there was none."""
    if Sweeps.last is None or not (Sweeps.last / TABLE).exists():
        return
    ended = points(Sweeps.last)
    failed = [point for point in ended if point.error]
    for point in failed:
        yield f"#{point.number} {' '.join(point.words)} failed: {point.error}"
    yield f"{len(ended) - len(failed)} of {len(ended)} points finished: {Sweeps.last / TABLE}"

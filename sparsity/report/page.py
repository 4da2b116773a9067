"""The HTML page: all its content as one JSON object, and a template with style and script inlined.

No text from a file becomes markup. The template escapes text, the JSON has no character that could end its element, the script
makes only text nodes, and the page's content policy allows only this script, by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..comparison import Interval
from ..measures import Measure
from ..record.known import COLUMNS
from . import pairs, protocol, seeds
from .gather import Group
from .options import GROUPS, TYPED, choices, heading, is_seed, shortened
from .read import Problem, Row, number

SCRIPTS = ("dom.js", "table.js", "charts.js", "compare.js", "run.js", "main.js")
UNSHOWN = {"block", "rows", "columns"}  # columns of layers.csv that are no measurement
MOST_TEXTS = 20  # number of generated texts shown per run


def page(groups: Sequence[Group], problems: Sequence[Problem], command: str) -> str:
    """One self-contained HTML file."""
    asset = files(__package__).joinpath("assets")
    script = (
        "(() => {\n'use strict';\n" + "\n".join(asset.joinpath(name).read_text("utf-8") for name in SCRIPTS) + "})();"
    )
    runs, names = sum(len(group.runs) for group in groups), [run.result.name for g in groups for run in g.runs]
    title = ", ".join(dict.fromkeys(name for name in names if name)) or "runs"
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        asset.joinpath("page.html.j2").read_text("utf-8")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        title=title if len(title) < 80 else "Pruning runs",
        summary=f"{_many(runs, 'finished run')}, {_many(sum(len(g.compositions) for g in groups), 'composition')}, "
        f"{_many(len(groups), 'protocol')}",
        command=command,
        made=f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC",
        style=Markup(asset.joinpath("page.css").read_text("utf-8")),
        script=Markup(script),
        script_hash=Markup(f"sha256-{digest}"),
        data=Markup(embedded(content(groups, problems))),
    )


def embedded(content: Any) -> str:
    """JSON that is safe inside <script>: it cannot close the element or open a comment."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def content(groups: Sequence[Group], problems: Sequence[Problem]) -> dict[str, Any]:
    """The object that the page's script reads. Runs have one numbering over all groups, in the order of their time."""
    every = sorted(
        ((member, g, i) for g, group in enumerate(groups) for i, member in enumerate(group.members)),
        key=lambda run: run[0],
    )
    return {
        "problems": [[problem.where, problem.what] for problem in problems],
        "differ": protocol.varying(group.conditions for group in groups),
        "groups": [_group(group) for group in groups],
        "runs": [_run(groups[g], i, g) for _, g, i in every],
    }


def _group(group: Group) -> dict[str, Any]:
    found, summaries = pairs.compare(group), seeds.summarise(group)
    same = {
        heading(name): value
        for name, value in (group.options[0].items() if len(group.runs) > 1 else ())
        if name not in group.names and all(row.get(name) == value for row in group.options)
    }
    return {
        "name": group.name,
        "conditions": group.conditions,
        "members": group.members,
        "columns": [
            {
                "key": heading(name),
                "heading": short,
                "plain": name in GROUPS,  # the value is shown without the name
                "usual": group.usual.get(name),
                "rare": _rare(group, name),
                "seed": is_seed(name),
            }
            for name, short in shortened(group.names).items()
        ],
        "same": list(same.items()),
        "measures": [_measure(measure) for measure in group.measures],
        "stages": group.stages,
        "repeats": sum(composition.repeats for composition in group.compositions),
        "pairs": {
            "possible": found.possible,
            "compared": found.compared,
            "kinds": {pair.what: asdict(pair.kind) for pair in found.found},
            "rows": [
                [
                    group.members[pair.a],
                    group.members[pair.b],
                    pair.what,
                    *_interval(pair.interval),
                    _digits(pair.adjusted),
                    pair.winner(),
                    pair.winner(alone=True),
                    pair.family,
                    pair.size,
                ]
                for pair in found.found
            ],
        },
        "seeds": [
            {
                "label": summary.composition.label,
                "options": {heading(name): value for name, value in summary.composition.options.items()},
                "runs": [group.members[i] for i in summary.composition.seeds.values()],
                "values": list(summary.values.items()),
                "sparsity": summary.sparsity,
                "mean": summary.mean,
                "deviation": summary.deviation,
                "interval": summary.interval and _interval(summary.interval),
            }
            for summary in summaries
        ],
        "methods": [
            [one.a, one.b, *_interval(one.interval), _digits(one.adjusted), one.winner]
            for one in seeds.differences(summaries)
        ],
    }


def _measure(measure: Measure) -> dict[str, Any]:
    return {
        "key": measure.name,
        "heading": measure.title,
        "unit": measure.unit,
        "better": measure.better,
        "digits": measure.digits,
        "fold": measure.folded,
    }


def _rare(group: Group, name: str) -> bool:
    """True if an option gets no column: at least three quarters of the runs do not have it, or have its usual value."""
    if name in GROUPS or name in TYPED or is_seed(name):
        return False
    quiet = sum(row.get(name) in (None, group.usual.get(name)) for row in group.options)
    return 4 * quiet >= 3 * len(group.runs)


def _interval(interval: Interval) -> list[float | int | None]:
    return [*(_digits(x) for x in (interval.estimate, interval.low, interval.high, interval.p)), interval.units]


def _run(group: Group, i: int, g: int) -> dict[str, Any]:
    run, result = group.runs[i], group.runs[i].result
    leakage = result.leakage if result.leakage and result.leakage.shared else None
    windows = run.tables["windows"]
    return {
        "group": g,
        "label": group.labels[i],
        "where": run.where,
        "time": run.time,
        "options": {heading(name): value for name, value in group.options[i].items() if name in group.names},
        "numbers": {key: _digits(value) for key, value in group.numbers[i].items()},
        "errors": {measure.name: _digits(measure.error, 4) for measure in result.measures if measure.error is not None},
        "notes": ["text shared with the evaluation"] if leakage else [],
        "leakage": leakage and leakage.content(),
        "reference": result.reference and result.reference.name,
        "command": str(result.command or run.environment.get("command") or ""),
        "point": f"python run.py {shlex.join(run.overrides)}" if run.overrides else "",
        "choices": {name: str(value) for name, value in choices(run).items()},
        "composition": result.composition,
        "circumstances": protocol.circumstances(run),
        "facts": {"run key": result.run_key, "masks, sha256": result.keep_sha256, "started": run.time},
        "config": yaml.dump(dict(run.config), sort_keys=False, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        if run.config
        else "",
        "windows": [_digits(float(row["nll_pruned"]), 6) for row in windows],
        "dense": [_digits(float(row["nll_dense"]), 6) for row in windows],
        "documents": [list(task) for task in pairs.tasks(run.tables["documents"])],
        "layers": layers(run.tables["layers"]),
        "texts": [
            [row.get(name, "") for name in ("prompt", "dense", "pruned")]
            for row in run.tables["generations"][:MOST_TEXTS]
        ],
        "more_texts": max(0, len(run.tables["generations"]) - MOST_TEXTS),
    }


def layers(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The blocks, the names of layers within a block, and every numeric column as a list of values by block and name."""
    if not rows or not all("block" in row and "name" in row for row in rows):
        return None
    names = list(dict.fromkeys(_within_block(row) for row in rows))
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    place = {(row["block"], _within_block(row)): i for i, row in enumerate(rows)}
    order = [place.get((block, name)) for block in blocks for name in names]
    found = {}
    for column in dict.fromkeys(column for row in rows for column in row if column not in UNSHOWN):
        values = [number(row.get(column)) for row in rows]
        if any(value is not None for value in values):
            found[column] = [None if i is None or (value := values[i]) is None else _digits(value, 4) for i in order]
    return {"blocks": blocks, "names": names, "values": found, "units": COLUMNS}


def _within_block(row: Mapping[str, str]) -> str:
    """The name of a layer within its block: model.layers.3.mlp.down_proj -> mlp.down_proj."""
    _, found, after = row["name"].partition(f".{row['block']}.")
    return after if found else row["name"]


def _digits(value: float | None, digits: int = 10) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

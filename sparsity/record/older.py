"""Results of older versions of this program, converted to the form of today.

A group that an older version did not have gets the option that does what that version did, so that older and later runs with the
same options count as one composition. Values that an older version wrote are not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..user_error import UserError
from .known import stated

SCHEMA = 2  # 2 has measures; 1 has only the dictionary
# Groups that were added later, and their option that changes nothing.
LATER = {"reference": "none", "allocation": "uniform", "refine": "none", "recover": "none"}
COMPOSED = {"allocation": "Uniform()", "refine": "NoRefinement()", "recover": "NoRecovery()"}
# A group that older versions did not record, and its option unless the command line chose another one.
UNRECORDED = {"tfidf": "doc"}
# Options that were added later, with the value that changes nothing, by section of the configuration.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "scope": {"lm_head": False},
    "calibration": {"held_out": 0, "written": 0, "prompt": 16},
}


def upgraded(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The content of a result.json in the form of today. `where`: its file, for a message.

    Raises `UserError` for a schema that is newer than this program.
    """
    schema = content.get("schema", 0)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(
            f"{where} has schema {schema}, of a newer sparsity-lab: expected a schema up to {SCHEMA}, which this version "
            f"reads. Update sparsity-lab, or move that folder away"
        )
    if schema == SCHEMA:
        return dict(content)
    words = content.get("overrides")
    return {
        **content,
        "schema": SCHEMA,
        "choices": _mapping(content, "choices", LATER | _unrecorded(words if isinstance(words, list) else [])),
        "composition": _mapping(content, "composition", COMPOSED),
        "measures": [measure.to_json() for measure in stated(content)],
    }


def upgraded_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration, completed by the options that were added later to the sections that it has."""
    added = {
        name: {**later, **config[name]} for name, later in OPTIONS.items() if isinstance(config.get(name), Mapping)
    }
    return {**config, **added}


def _mapping(content: Mapping[str, Any], section: str, defaults: Mapping[str, str]) -> dict[str, Any]:
    known = content.get(section)
    return {**(known if isinstance(known, Mapping) else {}), **{
        name: value for name, value in defaults.items() if not isinstance(known, Mapping) or name not in known
    }}  # fmt: skip


def _unrecorded(words: Sequence[Any]) -> dict[str, str]:
    """The options of the groups that were not recorded. Empty if an experiment was used, which may have chosen any option."""
    typed = {str(word).lstrip("+").partition("=")[0] for word in words}
    return {} if "experiment" in typed else {name: option for name, option in UNRECORDED.items() if name not in typed}

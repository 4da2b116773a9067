"""The groups of the configuration. This module imports nothing heavy, because the report needs the names but no model."""

from __future__ import annotations

from collections.abc import Mapping

PRUNING = (
    "method",
    "pattern",
    "allocation",
    "corrector",
    "refine",
    "recover",
)  # the groups that say how a model is pruned
COMPONENTS = ("model", "reference", "dataset", *PRUNING, "evaluation", "tracker")
SHARED = ("tfidf",)  # groups that other groups copy by interpolation
UNSAID = {"allocation": "uniform", "refine": "none", "recover": "none"}  # options that need no mention


def mentioned(choices: Mapping[str, str], *groups: str) -> list[str]:
    """The options chosen in these groups, without those that need no mention (`UNSAID`)."""
    return [choices[group] for group in groups if group in choices and choices[group] != UNSAID.get(group)]

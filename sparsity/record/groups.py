"""The groups of the configuration: light to import, as a report needs their names and no model."""

from __future__ import annotations

from collections.abc import Mapping

PRUNING = ("method", "pattern", "allocation", "corrector", "refine", "recover")  # what becomes of a model
COMPONENTS = ("model", "reference", "dataset", *PRUNING, "evaluation", "tracker")
SHARED = ("tfidf",)  # groups that reach the components by interpolation: whoever uses one holds a copy
UNSAID = {"allocation": "uniform", "refine": "none", "recover": "none"}  # options that need no mention


def named(choices: Mapping[str, str], *groups: str) -> list[str]:
    """The options chosen of these groups, but for those that need no mention."""
    return [choices[group] for group in groups if group in choices and choices[group] != UNSAID.get(group)]

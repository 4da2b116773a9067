"""The groups of the configuration: light to import, as a report needs their names and no model."""

from __future__ import annotations

PRUNING = ("method", "pattern", "allocation", "corrector", "refine", "recover")  # what becomes of a model
COMPONENTS = ("model", "reference", "dataset", *PRUNING, "evaluation", "tracker")
SHARED = ("tfidf",)  # groups that reach the components by interpolation: whoever uses one holds a copy
USUAL = "uniform"  # the allocation that needs no mention

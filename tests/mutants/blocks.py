"""Mutants of what is done to a block as a whole, and of the one walk that serves a sweep."""

from __future__ import annotations

from mutant import Mutant

TUNING, STREAM = "sparsity/refine/block.py", "sparsity/stream.py"
REFINED, GOES_ON, SWEPT = "tests/test_refine.py", "tests/test_journal.py", "tests/test_sweeps.py"

BLOCKS = (
    Mutant("removed weights tuned", TUNING, "(weight_OI * self._keeps[site])", "weight_OI", REFINED),
    Mutant("tuned on what is held out", TUNING, "range(tuned, len(passage.inputs))", "range(0)", REFINED),
    Mutant("the last epoch kept", TUNING, "if found < best:", "if True:", REFINED),
    Mutant("no patience", TUNING, "epoch - at >= self.patience", "False", REFINED),
    Mutant("tuned in the model's dtype", TUNING, ".weight_OI.float().clone()", ".weight_OI.clone()", REFINED),
    Mutant("the dense states stand still", STREAM, "self._dense = self._behind", "pass", REFINED),
    Mutant("targets of the dense inputs", STREAM, "in enumerate(self._dense)]", "in enumerate(self.hidden)]", REFINED),
    Mutant("one stream put back", STREAM, "states[len(self._calls) :]", "self._dense", REFINED),
    Mutant("rows of blocks forgotten", "sparsity/runs/pruning.py", "note(block, was.refined)", "note(block, {})", GOES_ON),
    Mutant(
        "each point walks", "sparsity/runs/calibration.py", "partial(_shared, job, dense.decoder, needs)", "lambda: needs", SWEPT
    ),
    Mutant(
        "every file read",
        "sparsity/runs/cache/statistics.py",
        "every or not names",
        "True or not names",
        "tests/test_statistics_cache.py",
    ),
)  # fmt: skip

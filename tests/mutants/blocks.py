"""Mutants of what a block is, of what is done to it or to the model as a whole, and of the one walk that serves a sweep."""

from __future__ import annotations

from mutant import Mutant

TUNING, STREAM = "sparsity/refine/block.py", "sparsity/stream.py"
DESCENT, RECOVERY, RECOVERED = "sparsity/tuning.py", "sparsity/recover/distillation.py", "tests/recover/test_recover.py"
REFINED, GOES_ON, SWEPT = "tests/refine/test_refine.py", "tests/stages/test_journal.py", "tests/runs/test_sweeps.py"
FOUND, WALK = "sparsity/models/blocks.py", "tests/core/test_stream.py"

BLOCKS = (
    Mutant("Conv1D not transposed", FOUND, "x_ANY.T if self.transposed else x_ANY", "x_ANY", WALK),
    Mutant("attention taken for mlp", FOUND, '"attention" in p for p', "False for p", WALK),
    Mutant("removed weights tuned", TUNING, "weight_OI.grad.mul_(self._keeps[site])", "pass", REFINED),
    Mutant("tuned on what is held out", DESCENT, "range(tuned), range(tuned", "range(batches), range(tuned", RECOVERED),
    Mutant("all that was tuned on judged twice", DESCENT, "seen[-len(judged) :]", "seen", RECOVERED),
    Mutant("the last epoch kept", DESCENT, "if cost < self.costs[self.kept]:", "if True:", REFINED),
    Mutant("no patience", DESCENT, "epoch - self.kept >= self._tuning.patience", "False", REFINED),
    Mutant("removed weights recovered", RECOVERY, ".float().mul_(keep)", ".float()", RECOVERED),
    Mutant("the slope of cross-entropy's head alone", "sparsity/predictions.py", "q_BTV.sub_(p_BTV)", "q_BTV", RECOVERED),
    Mutant("recovered in the model's dtype", RECOVERY, "parameter.detach().float()", "parameter.detach()", RECOVERED),
    Mutant("the new head taught", RECOVERY, "hidden_BTI, self.outside)[0]", "hidden_BTI, {})[0]", RECOVERED),
    Mutant("tuned in the model's dtype", TUNING, ".weight_OI.float().clone()", ".weight_OI.clone()", REFINED),
    Mutant("the dense states stand still", STREAM, "self._dense = self._behind", "pass", REFINED),
    Mutant("targets of the dense inputs", STREAM, "in enumerate(self._dense)]", "in enumerate(self.hidden)]", REFINED),
    Mutant("one stream put back", STREAM, "kept[: len(mine)], kept[len(mine) :]", "kept[: len(mine)], self._dense", REFINED),
    Mutant("rows of blocks forgotten", "sparsity/stages/pruning.py", "self._refined(block, was.refined)", "pass", GOES_ON),
    Mutant(
        "each point walks", "sparsity/stages/calibration.py", "partial(_shared, job, dense.decoder, needs)", "lambda: needs", SWEPT
    ),
    Mutant(
        "every file read",
        "sparsity/cache/statistics.py",
        "every or not names",
        "True or not names",
        "tests/cache/test_statistics_cache.py",
    ),
)  # fmt: skip

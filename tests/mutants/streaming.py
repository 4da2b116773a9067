"""Mutants of models that are read block by block, and of the plan of what a run needs."""

from __future__ import annotations

from mutant import Mutant

FILES, STREAMED = "sparsity/models/files.py", "tests/models/test_streamed.py"
RUNS = "tests/stages/test_streamed_runs.py"
SIZES, PRUNING, PLANNED = "sparsity/stages/sizes.py", "sparsity/stages/pruning.py", "tests/stages/test_resources.py"
RECOVERING = "sparsity/stages/recovering.py"

STREAMING = (
    Mutant(
        "a changed block is forgotten", FILES, "            if self._touched:\n", "            if False:\n", STREAMED
    ),
    Mutant(
        "every block is written",
        FILES,
        "        self._touched = False\n        try",
        "        self._touched = True\n        try",
        STREAMED,
    ),
    Mutant("the checkpoint's dtype is kept", FILES, ".to(self._blank[name].dtype)", "", STREAMED),
    Mutant("a changed block is not restored", FILES, "        self._written.clear()\n", "", STREAMED),
    Mutant("a pruned head is not restored", FILES, "        self._load_outside()\n", "", STREAMED),
    Mutant("the dense block is saved", FILES, "if block in self._written:", "if False:", STREAMED),
    Mutant("no prefix is added", FILES, "converters, *prefix)", "converters)", STREAMED),
    Mutant("equal inputs are counted apart", SIZES, "if key in seen:", "if False:", PLANNED),
    Mutant(
        "what is written is not held",
        PRUNING,
        "for n in (calibration.sequences,",
        "for n in (calibration.num_sequences,",
        PLANNED,
    ),
    Mutant("a float32 model is copied", RECOVERING, "(TUNED - (of.element == 4))", "TUNED", PLANNED),
    Mutant("a recovery streams", RECOVERING, "if job.parts.model.stream and recovery.reads_text:", "if False:", RUNS),
    Mutant("processes stream", "sparsity/stages/loading.py", "if job.parts.model.stream:", "if False:", RUNS),
    Mutant("pruned blocks are run once", PRUNING, "return 1 if dense else 2 +", "return 1 if dense else 1 +", PLANNED),
    Mutant("solves cost nothing", "sparsity/core.py", "if says else 0.0", "if False else 0.0", PLANNED),
    Mutant(
        "the corrector's solve is forgotten",
        PRUNING,
        "in (plan.method, plan.corrector))",
        "in (plan.method,))",
        PLANNED,
    ),
)

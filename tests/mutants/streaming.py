"""Mutants of models that are read block by block, and of the plan of what a run needs."""

from __future__ import annotations

from mutant import Mutant

FILES, STREAMED = "sparsity/models/files.py", "tests/models/test_streamed.py"
RUNS = "tests/stages/test_streamed_runs.py"
RESOURCES, PLANNED = "sparsity/stages/resources.py", "tests/stages/test_resources.py"

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
    Mutant("equal inputs are counted apart", RESOURCES, "if key in seen:", "if False:", PLANNED),
    Mutant(
        "what is written is not held",
        RESOURCES,
        "for n in (calibration.sequences,",
        "for n in (calibration.num_sequences,",
        PLANNED,
    ),
    Mutant("a float32 model is copied", RESOURCES, "(TUNED - (of.element == 4))", "TUNED", PLANNED),
    Mutant("a recovery streams", "sparsity/options/components.py", "if parts.recover.reads_text:", "if False:", RUNS),
    Mutant("processes stream", "sparsity/options/components.py", "if processes > 1:", "if False:", RUNS),
    Mutant("pruned blocks are run once", RESOURCES, '== "dense" else 2 +', '== "dense" else 1 +', PLANNED),
)

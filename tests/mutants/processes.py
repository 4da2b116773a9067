"""Mutants of what several processes do together."""

from __future__ import annotations

from mutant import Mutant

ROOM, STREAM, CORE = "sparsity/processes.py", "sparsity/stream.py", "sparsity/core.py"
DEALT = "tests/core/test_processes.py"

PROCESSES = (
    Mutant("a batch is nobody's", ROOM, "count * (rank + 1) // size)", "count // size * (rank + 1))", DEALT),
    Mutant("each folds all of the text", STREAM, "batches[self._processes.part(len(batches))]", "batches", DEALT),
    Mutant("each labels a text of its own", STREAM, "self._mine(labels_BT.to(self.device))", "labels_BT.split(1)", DEALT),
    Mutant("states shared as in one process", STREAM, "if states not in known:", "if not known:", DEALT),
    Mutant("others' states put back", STREAM, "if i % batches in mine]", "if i % batches not in mine]", DEALT),
    Mutant("all rows by each", CORE, "part_OI[mine].split(height)", "part_OI.split(height)", DEALT),
    Mutant(
        "compared within a share",
        CORE,
        "self.processes.joined(score_PI, rows), scope)[self.processes.part(rows)]",
        "score_PI, scope)",
        DEALT,
    ),
    Mutant("the others' numbers for tensors", ROOM, "is None else number for number", "is not None else number for number", DEALT),
    Mutant("states from the right", ROOM, "else merge(total, other)", "else merge(other, total)", DEALT),
    Mutant("rows of the others left empty", ROOM, "_broadcast(whole_OI[part(count, rank, self.size)], rank)", "pass", DEALT),
    Mutant("the first one's is everybody's own", ROOM, "if self.rank == 0 else torch.empty(", "if True else torch.empty(", DEALT),
    Mutant("words cut short", ROOM, "word[: int(n) - 1]", "word[: int(n) - 2]", DEALT),
)  # fmt: skip

"""Breaks of what keeps text apart that nothing may be learnt from."""

from __future__ import annotations

from mutant import Mutant

TOKENS, ENGINE, STREAM = "sparsity/datasets/tokens.py", "sparsity/engine.py", "sparsity/stream.py"
JUDGED, GOES_ON = "tests/core/test_held_out.py", "tests/stages/test_journal.py"

HELD_OUT = (
    Mutant("text held out that ends in what is learnt", TOKENS, "max(start - seqlen + 1, 0)", "start", JUDGED),
    Mutant("text held out that begins in what is learnt", TOKENS, "start + seqlen] = False", "start + seqlen - 1] = False", JUDGED),
    Mutant(
        "a held-out error before the correction",
        ENGINE,
        "unseen = relative_error(judge[GRAM].gram_II, layer.weight_OI, corrected",
        "unseen = relative_error(judge[GRAM].gram_II, layer.weight_OI, pruned",
        JUDGED,
    ),
    Mutant("held-out text goes as far as the other", ENGINE, "max(site.block for site in plan.needs)", "plan.last", JUDGED),
    Mutant("states of the text held out for the other", STREAM, "(2 if self._apart else 1)", "2", GOES_ON),
)  # fmt: skip

"""Mutants of what is there for the sake of time: passes that end early, the sweep in two levels, selection without a sort,
files that are not digested again."""

from __future__ import annotations

from mutant import Mutant

ENTRY, KEPT = "sparsity/cache/entry.py", "tests/cache/test_cache_entry.py"
LINALG, STREAM = "sparsity/linalg.py", "sparsity/stream.py"
PATTERNS, IDENTITIES, WALK = (
    "tests/patterns/test_patterns.py",
    "tests/core/test_identities.py",
    "tests/core/test_stream.py",
)
TWICE = f"{WALK}::test_a_module_that_a_block_calls_twice_is_seen_twice_in_every_batch"
EARLY = f"{WALK}::test_an_observing_pass_ends_at_the_last_input_that_is_asked_for"

SHORTCUTS = (
    Mutant("a pass ends too early", STREAM, "len(self.seen) == len(self.sources):", "self.seen:", WALK),
    Mutant("a pass ends at a first call", STREAM, "self.leaves = once and", "self.leaves =", TWICE),
    Mutant("needed outputs are not made", STREAM, "self.leaves = once and not self.whole", "self.leaves = once", WALK),
    Mutant("no pass ends early", STREAM, "raise _Enough", "pass", EARLY),
    Mutant("what is behind the next few", LINALG, "[first:last], alpha=-1)", "[first:last], alpha=0)", IDENTITIES),
    Mutant("a triangle's corner with the other sign", LINALG, "corner_AD.neg_()", "corner_AD", IDENTITIES),
    Mutant(
        "a triangle whose halves do not meet",
        LINALG,
        "right_IN[half:], alpha=-1)",
        "right_IN[half:], alpha=0)",
        IDENTITIES,
    ),
    Mutant("the next smallest", LINALG, "x_GN.detach().numpy(), k - 1)", "x_GN.detach().numpy(), k)", IDENTITIES),
    Mutant("the sample is believed", LINALG, "if not first < k <= first + len(inside_n):", "if False:", IDENTITIES),
    Mutant("all looked through", LINALG, "if not first < k <= first + len(inside_n):", "if True:", IDENTITIES),
    Mutant("a tie is never broken", "sparsity/patterns/unstructured.py", "and not room_G1.any()", "", PATTERNS),
    Mutant(
        "minus zero", "sparsity/core.py", "(layer.weight_OI * keep_OI).add_(0)", "layer.weight_OI * keep_OI", IDENTITIES
    ),
    Mutant("a fingerprint of some", "sparsity/models/decoder.py", "in digests:", "in digests[:-1]:", WALK),
    Mutant("a file that was used is sound", ENTRY, "if sound:", "if True:", KEPT),
    Mutant("a file that changed is sound", ENTRY, ", stat.st_mtime_ns", "", KEPT),
)

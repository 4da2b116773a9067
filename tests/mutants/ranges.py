"""Breaks of what compares options with their ranges, and what was found with what was asked."""

from __future__ import annotations

from mutant import Mutant

FILE, SETTINGS, COMPONENTS = "sparsity/ranges.py", "sparsity/options/settings.py", "sparsity/options/components.py"
ENGINE, LINALG = "sparsity/engine.py", "sparsity/linalg.py"
SPARSEGPT, SUCCESSOR = "sparsity/methods/sparsegpt.py", "sparsity/methods/successor.py"
RANGES, FOUND, MISTAKES = "tests/options/test_ranges.py", "tests/core/test_found.py", "tests/runs/test_mistakes.py"

OPTIONS = (
    Mutant("infinity is a number", FILE, 'sys.float_info.max if self.finite else float("inf")', 'float("inf")', RANGES),
    Mutant("a range whose least is left out", FILE, "or number >= self.least", "or number > self.least", RANGES),
    Mutant("a range whose end is let in", FILE, "or number < self.below", "or number <= self.below", RANGES),
    Mutant("a number of no end", FILE, "or number <= self.cap", "or number <= 1000 * self.cap", RANGES),
    Mutant("numbers in between", FILE, "number % self.multiple == 0", "number >= self.multiple", RANGES),
    Mutant("a flag that counts", FILE, "if isinstance(value, bool) or not", "if not", RANGES),
    Mutant("a whole number that no tensor holds", FILE, "abs(value) < 2**63", "abs(value) < 2**630", RANGES),
    Mutant("a range that is not compared", FILE, "return typed and all(", "return typed or all(", RANGES),
    Mutant("lists of anything", FILE, "all(fits(inner, parts[0])", "any(fits(inner, Any)", RANGES),
    Mutant("a plain value in the place of a method", FILE, 'getattr(kind, "_is_protocol", False)', "False", RANGES),
    Mutant("options that are not compared", FILE, "if not fits(value, kind):\n  ", "if False:\n  ", RANGES),
    Mutant("options together not at all", FILE, "        if then is not None:\n", "        if then is None:\n", RANGES),
    Mutant("a message without its path", SETTINGS, "words(kinds[key], value), path)", "words(kinds[key], value))", RANGES),
    Mutant("parts that nobody looks into", SETTINGS, 'check_arguments(f"{above}{key}", part, arguments[key])', "pass", MISTAKES),
    Mutant("options together without their path", COMPONENTS, "raise cause.under(", "raise cause or (", MISTAKES),
)  # fmt: skip
COMPARED = (
    Mutant("scores that are no numbers", ENGINE, "if pruned.nan is not None and pruned.nan:", "if False:", FOUND),
    Mutant("weights that are no numbers", ENGINE, "if not all_finite(weight_OI):", "if False:", FOUND),
    Mutant("any number of weights", ENGINE, "<= rows + pruned.more:", "<= weights:", FOUND),
    Mutant("hardly any weights", ENGINE, "not -(rows + pruned.fewer) <=", "not -weights <=", FOUND),
    Mutant("removed weights that come back", ENGINE, "((corrected.weight_OI != 0) >", "((pruned.weight_OI != 0) >", FOUND),
    Mutant("dead inputs that nobody admits", SPARSEGPT, "fewer, gone * rows)", "fewer, 0)", FOUND),
    Mutant("a base whose rule is forgotten", SUCCESSOR, "pruned, weight_OI=better", "better, weight_OI=better", FOUND),
    Mutant("damping without end", LINALG, "while used <= MOST:", "while True:", FOUND),
    Mutant("nothing of nothing is no number", LINALG, "torch.where(loss == 0, loss, loss / layer", "(loss / layer", FOUND),
)  # fmt: skip
RANGED = (*OPTIONS, *COMPARED)

"""Mutants of help, of the next steps after a mistake, and of a plan's words."""

from __future__ import annotations

from mutant import Mutant

WRITTEN, DECLARED, HELP = (f"sparsity/options/{name}.py" for name in ("written", "declared", "help"))
MEANT, MISTAKES, TYPED = "sparsity/options/meant.py", "sparsity/options/mistakes.py", "sparsity/runs/typed.py"
COMPOSITION = "sparsity/runs/composition.py"
PAGES, NATURAL = "tests/options/test_help.py", "tests/runs/test_natural_mistakes.py"
PLAN = "tests/runs/test_preview.py"

EXPLAINING = (
    Mutant("a comment's first line alone", WRITTEN, "said.append(line[column + 1 :].strip())", "break", PAGES),
    Mutant("a value without its quotes", WRITTEN, "value.end_mark.index].strip()", 'value.end_mark.index].strip("\\"")', PAGES),
    Mutant("a range with its open end closed", DECLARED, '"above": "gt"', '"above": "ge"', PAGES),
    Mutant("the fields of the class alone", DECLARED, "            found |= parent.parameters\n", "            pass\n", PAGES),
    Mutant("pages wider than the terminal", HELP, "min(WIDEST, shutil", "max(WIDEST, shutil", PAGES),
    Mutant("a flag that is an option", TYPED, "        flags.append(word)\n", "        words.append(word)\n", NATURAL),
    Mutant("an option inside another one is a value", MEANT, "is_left_out, is_nested,", "is_left_out,", NATURAL),
    Mutant("a sweep without -m", MEANT, "if command.sweep or not (several", "if not command.sweep or not (several", NATURAL),
    Mutant("a percentage as it is", MISTAKES, "{percent / 100:g}", "{percent:g}", NATURAL),
    Mutant("the values that are the file's own", COMPOSITION, "if found == default:", "if found != default:", PLAN),
)  # fmt: skip

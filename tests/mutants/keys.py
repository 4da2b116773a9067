"""Mutants of keys: what a number depends on is forgotten, or what it does not depend on counts."""

from __future__ import annotations

from mutant import Mutant

CODE, KEY, AGAIN = "sparsity/code.py", "sparsity/stages/key.py", "sparsity/stages/again.py"
PLANTED, REAL = "tests/core/test_code.py", "tests/stages/test_key_code.py"
OF_RUNS, WHY = "tests/stages/test_run_key.py", "tests/stages/test_again.py"
ERROR = 'case ast.Raise(exc=ast.Call(func=ast.Name(id="UserError")) as call):'

KEYS = (
    Mutant(
        "an import in a function forgotten", CODE, "imports.append(found)", "inside or imports.append(found)", PLANTED
    ),
    Mutant("what an except imports forgotten", CODE, '*getattr(node, "handlers", ())', "", PLANTED),
    Mutant("what an else imports forgotten", CODE, '("body", "orelse", "finalbody")', '("body", "finalbody")', PLANTED),
    Mutant("a name from above forgotten", CODE, 'package.count(".") + 2 -', 'package.count(".") + 1 -', PLANTED),
    Mutant("a re-export not followed", CODE, "if name in source.passed:", "if False:", PLANTED),
    Mutant("a package passes on what it defines", CODE, "if name in source.defined:", "if False:", PLANTED),
    Mutant("a type checker's imports count", CODE, "statement.body = []", "pass", PLANTED),
    Mutant("a docstring counts", CODE, "if not _is_text(statement)", "if True", PLANTED),
    Mutant("what an error says counts", CODE, "call.args, call.keywords = [], []", "pass", PLANTED),
    Mutant("a call is an error", CODE, ERROR, "case ast.Expr(value=ast.Call() as call):", PLANTED),
    Mutant("nothing is outside", CODE, "for place in outside)", "for place in ())", PLANTED),
    Mutant("what begins alike is outside", CODE, '(place.endswith("/") and relative', "(relative", PLANTED),
    Mutant("what is installed counts", CODE, "if folder.name not in INSTALLED)", ")", PLANTED),
    Mutant("the key forgets the method", KEY, "if group != WATCHES}", 'if group not in (WATCHES, "method")}', OF_RUNS),
    Mutant("the key forgets what the options name", KEY, "[RUN, *_classes(computed)]", "[RUN]", REAL),
    Mutant("the key forgets a base", KEY, "node = [*node.values()]", "node = []", REAL),
    Mutant("the key forgets the stages", KEY, "code([RUN, *", "code([*", REAL),
    Mutant("the key forgets the code", KEY, '"code": its.files,\n    }', '"code": {},\n    }', OF_RUNS),
    Mutant("the key forgets Python", KEY, '"python": platform.python_version(), ', "", OF_RUNS),
    Mutant("an evaluator's code left out", KEY, "[_name(evaluator), ", "[", REAL),
    Mutant("an evaluated model's walk left out", KEY, '"sparsity.evaluation.Walked", ', "", REAL),
    Mutant("a statistic's code left out", KEY, "_key([*map(_name, parts), ", "_key([", REAL),
    Mutant("a grouping's code left out", KEY, "in (statistic, statistic.grouping)", "in (statistic,)", REAL),
    Mutant("an allocation's code left out", KEY, "_key([_name(allocation), ", "_key([", REAL),
    Mutant("the stages are outside", KEY, '"sparsity/stages/resources.py":', '"sparsity/stages/":', REAL),
    Mutant(
        "the dense model's answers are filed without code",
        "sparsity/stages/evaluating.py",
        ", **reference_key(evaluator)}",
        "}",
        REAL,
    ),
    Mutant("the oldest run is compared with", AGAIN, "found[-1]", "found[0]", WHY),
    Mutant(
        "a run that left nothing is compared with",
        AGAIN,
        "alike and (result or (folder / JOURNAL).is_dir())",
        "alike",
        WHY,
    ),
    Mutant("another command is compared with", AGAIN, " and _heard(words) == asked", "", WHY),
    Mutant("what is resumed is explained", AGAIN, "any(earlier.inputs == inputs for earlier in found)", "False", WHY),
)

"""Breaks of what a finished run says, and of how it is read and shown."""

from __future__ import annotations

from mutant import Mutant

RESULT, OLDER, KNOWN = "sparsity/record/result.py", "sparsity/record/older.py", "sparsity/record/known.py"
CONSOLE, TOLD, PAIRS = "sparsity/record/console.py", "sparsity/tracking/told.py", "sparsity/report/pairs.py"
LM_EVAL, DIVERGENCE = "sparsity/evaluation/lm_eval.py", "sparsity/evaluation/divergence.py"
TYPED, SHOWN, PAIRED = (
    "tests/record/test_result.py",
    "tests/record/test_console.py",
    "tests/report/test_report_pairs.py",
)

RESULTS = (
    Mutant(
        "a direction reversed",
        LM_EVAL,
        '{True: "larger", False: "smaller"',
        '{True: "smaller", False: "larger"',
        "tests/evaluation/test_lm_eval.py",
    ),
    Mutant("a direction declared the wrong way round", DIVERGENCE, '"nats", "smaller"', '"nats", "larger"', TYPED),
    Mutant(
        "an older direction reversed",
        KNOWN,
        'Known("evaluation.*.agreement", "fraction", "larger", 2)',
        'Known("evaluation.*.agreement", "fraction", "smaller", 2)',
        TYPED,
    ),
    Mutant("every task's larger value wins", PAIRS, "better = self.kind.better", 'better = "larger"', PAIRED),
    Mutant("an upgrade forgotten", OLDER, '"recover": "none"}', '"recover": "distill"}', TYPED),
    Mutant(
        "an upgrade over what was recorded",
        OLDER,
        "if not isinstance(known, Mapping) or name not in known",
        "if name",
        TYPED,
    ),
    Mutant("an option that came later stays unsaid", OLDER, '"held_out": 0, ', "", TYPED),
    Mutant("an older folder without measures", OLDER, "for measure in stated(content)]", "for measure in ()]", TYPED),
    Mutant("an experiment's tfidf taken for the default", OLDER, '{} if "experiment" in typed else ', "", TYPED),
    Mutant("a schema not checked", OLDER, "schema > SCHEMA", "schema > 1000", TYPED),
    Mutant(
        "a number of the wrong type is lost in silence",
        RESULT,
        "if content.get(name) != section:",
        "if name not in content:",
        TYPED,
    ),
    Mutant(
        "a standard error of another metric", KNOWN, "errors.get(path)))", "next(iter(errors.values()), None)))", TYPED
    ),
    Mutant(
        "an evaluator that declares nothing is not shown",
        RESULT,
        "measures += unstated(name, measured.summary)",
        "continue",
        TYPED,
    ),
    Mutant(
        "settings among the measures",
        KNOWN,
        "and not SPREAD.search(path) and not _asked(path)",
        "and not SPREAD.search(path)",
        TYPED,
    ),
    Mutant("a line that is too wide", CONSOLE, "width + needed - GAP > into.width", "width > into.width", SHOWN),
    Mutant(
        "only one evaluation in the terminal",
        CONSOLE,
        'if section == "evaluation":',
        'if section == "evaluation" and not rows:',
        SHOWN,
    ),
    Mutant(
        "tables of the first row's columns",
        TOLD,
        "for row in rows for column in row))",
        "for row in rows[:1] for column in row))",
        "tests/tracking/test_trackers.py",
    ),
    Mutant("a column of two kinds", TOLD, "- {None}) > 1", "- {None}) > 2", "tests/tracking/test_trackers.py"),
    Mutant(
        "stages out of order",
        "sparsity/report/measures.py",
        "found.insert(place, stage)",
        "found.append(stage)",
        "tests/report/test_report_read.py",
    ),
    Mutant(
        "a text cut at any separator",
        "sparsity/report/read.py",
        'io.StringIO(text, newline="")',
        "text.splitlines(keepends=True)",
        "tests/report/test_report_read.py",
    ),
    Mutant(
        "a resumed evaluation forgets what it declared",
        "sparsity/stages/evaluating.py",
        "for measure in about",
        "for measure in () and about",
        TYPED,
    ),
    Mutant(
        "a stage's declared measures are dropped",
        "sparsity/runs/pipeline.py",
        "work.measures += found.measures",
        "work.measures += ()",
        TYPED,
    ),
)

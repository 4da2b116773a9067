"""Mutants of how the program is started: what it loads, and what it calls itself."""

from __future__ import annotations

from mutant import Mutant

COMMAND, STARTED = "sparsity/runs/command.py", "sparsity/record/started.py"
TESTS = "tests/runs/test_command.py"

STARTING = (
    Mutant("another one on the PATH", STARTED, "found and Path(found).resolve() == script.resolve()", "found", TESTS),
    Mutant("torchrun starts a script of pip's", STARTED, "module = installed or script", "module = script", TESTS),
    Mutant(
        "--help waits for torch", "sparsity/record/store.py", "from ..user_error import", "from ..core import", TESTS
    ),
    Mutant(
        "a finished run waits for transformers",
        "sparsity/models/tiny.py",
        "    from transformers import PreTrainedModel, ",
        "    pass\nfrom transformers import PreTrainedModel, ",
        TESTS,
    ),
    Mutant("no garbage is collected", COMMAND, "        gc.enable()", "        pass", TESTS),
    Mutant(
        "a launcher gets a function without a name",
        COMMAND,
        "(job), conf, COMMANDS)",
        "(lambda c: job(c)), conf, COMMANDS)",
        TESTS,
    ),
)

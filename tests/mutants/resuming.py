"""Mutants of the stages, of what they note, and of how they resume."""

from __future__ import annotations

from mutant import Mutant

NOTES, DESCENT, NOTED = "sparsity/notes.py", "sparsity/tuning.py", "tests/core/test_notes.py"
JOURNAL, RECOVERING, RESUMED = (
    "sparsity/stages/journal.py",
    "sparsity/stages/recovering.py",
    "tests/stages/test_resume.py",
)
JOURNALS, PERPLEXITY = "tests/stages/test_journal.py", "tests/evaluation/test_perplexity.py"
EVALUATING, COUNTING = "sparsity/stages/evaluating.py", "sparsity/stages/counting.py"

RESUMING = (
    Mutant("finished parts are computed again", NOTES, "left = parts[len(finished) :]", "left = parts", NOTED),
    Mutant("a descent begins again", DESCENT, "for note in notes.read()[-1:]:", "for note in ():", NOTED),
    Mutant("weights are not put back", DESCENT, 'weight.copy_(tensors[f"{i}.weight"])', "pass", NOTED),
    Mutant("Adam forgets", DESCENT, "            if state:\n", "            if False:\n", NOTED),
    Mutant("the best is the newest", DESCENT, 'tensors |= {f"{i}.weight": weight.detach(), f"{i}.best": best}',
           'tensors |= {f"{i}.weight": weight.detach(), f"{i}.best": weight.detach()}', NOTED),
    Mutant("an epoch is not noted", DESCENT, "(ended or time.monotonic()", "(time.monotonic()", NOTED),
    Mutant("any conditions will do", JOURNAL, 'entry.about["conditions"]', "self._conditions", JOURNALS),
    Mutant("leftovers of a killed note are read", JOURNAL, "                left.unlink()", "                pass", JOURNALS),
    Mutant("a recovery changes what is being written", RECOVERING, "work.record.journal.settle()", "pass", RESUMED),
    Mutant("a finished recovery is repeated", RECOVERING, 'if "facts" in about:', "if False:", RESUMED),
    Mutant("recovered weights are lost", RECOVERING, "decoder.blocks[site.block].write(site, weights[site.name])", "pass", RESUMED),
    Mutant("a finished evaluator is asked again", EVALUATING, "for about, _ in finished.read():", "for about, _ in ():", RESUMED),
    Mutant("one series of notes for both models", EVALUATING, "evaluate-dense-{name}", "evaluate-pruned-{name}", PERPLEXITY),
    Mutant("a removed weight may grow", COUNTING, "if found > (survivors", "if found < (survivors", RESUMED),
    Mutant("the last process decides", "sparsity/processes.py", "return cast(J, json.loads(said[0]))", "return mine",
           "tests/core/test_processes.py"),
)  # fmt: skip

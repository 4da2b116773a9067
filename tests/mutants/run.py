"""Break the code one line at a time; each break must turn a test red. A test suite that cannot fail proves nothing.

    make mutants            or, for some of them:  python tests/mutants/run.py sweep perplexity

Each mutant is a line of a file, what it becomes, and the tests that must notice. They run in copies of this checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blocks import BLOCKS
from held_out import HELD_OUT
from mutant import Mutant
from processes import PROCESSES
from shortcuts import SHORTCUTS
from streaming import STREAMING
from successors import SUCCESSORS

ROOT = Path(__file__).parents[2]
COPIED = ("sparsity", "conf", "tests", "experiments", "run.py", "pyproject.toml", "README.md")

LINALG, STREAM, PATTERNS = "sparsity/linalg.py", "sparsity/stream.py", "sparsity/patterns"
IDENTITIES, WALK, MASKS = "tests/test_identities.py", "tests/test_stream.py", "tests/test_patterns.py"
ENGINE = "tests/test_engine.py"
SPLITTING, SPLIT = "sparsity/methods/splitting.py", "tests/test_splitting.py"
TFIDF, NEURONS, TOPICS = "sparsity/methods/tfidf.py", "sparsity/methods/neurons.py", "sparsity/groupings/topics.py"
BOOTSTRAP, COMPARED = "tests/test_comparison_windows.py", "tests/test_comparison.py"
WATCH, WATCHED = "sparsity/runs/tracking/watch.py", "tests/test_trackers.py"
TAPS, RANKED, SCORED = "tests/test_taps.py", "tests/test_tfidf.py", "tests/test_neuronrank.py"
CACHE, JOURNAL, HELD = "sparsity/runs/cache", "sparsity/runs/journal.py", "sparsity/runs/dense.py"
RECALL, RECALLED = f"{CACHE}/statistics.py", "tests/test_statistics_cache.py"
SHARES, SHARED, ALLOTTED = "sparsity/allocation", "tests/test_allocation.py", "tests/test_allocation_runs.py"
JOURNALS, SWEPT = "tests/test_journal.py", "tests/test_sweeps.py"
MUTANTS = (
    Mutant("the sweep's sign", LINALG, "error[j], alpha=-1)", "error[j], alpha=1)", IDENTITIES),
    Mutant(
        "the sweep forgets the blocks to its right", LINALG, "error_KO, alpha=-1)", "error_KO, alpha=0)", IDENTITIES
    ),
    Mutant("half a Gram", "sparsity/statistics/gram.py", "gram_II[start:end, end:].T", "0", IDENTITIES),
    Mutant("activations squared in place", LINALG, "to(dtype, copy=True)", "to(dtype)", IDENTITIES),
    Mutant("finite if the sum is", LINALG, " or bool(x_ANY.isfinite().all())", "", IDENTITIES),
    Mutant("absolute damping", LINALG, "damp * gram_II.diagonal().mean()", "damp", IDENTITIES),
    Mutant("no escalation", LINALG, "if info.item() == 0:", "if True:", IDENTITIES),
    Mutant("dead inputs keep weights", "sparsity/methods/sparsegpt.py", ".masked_fill(dead_I, 0)", "", IDENTITIES),
    Mutant(
        "wanda without the root",
        "sparsity/methods/wanda.py",
        "(total_I / tokens).sqrt()",
        "(total_I / tokens)",
        IDENTITIES,
    ),
    Mutant("a splitting that reflects nothing", SPLITTING, "off_PI, value=-2)", "off_PI, value=-1)", SPLIT),
    Mutant("a splitting without its penalty", SPLITTING, "alpha=used).add_(rho)", "alpha=used)", SPLIT),
    Mutant("a splitting without its ridge", SPLITTING, "(ridge_I, alpha=used)", "(ridge_I, alpha=0)", SPLIT),
    Mutant("a splitting by rows in the layer", SPLITTING, 'if scope == "layer" and', 'if scope == "none" and', SPLIT),
    Mutant("a splitting in other units", SPLITTING, "norm_I / root_I", "norm_I", SPLIT),
    Mutant("a linear schedule", "sparsity/methods/admm.py", "self.gradual) ** 3)", "self.gradual))", SPLIT),
    Mutant("rho rises, its dual does not", "sparsity/methods/alps.py", "value=1 / rise - 1", "value=0", SPLIT),
    Mutant("one growth of rho", "sparsity/methods/alps.py", "1.2 if changed >= 0.005 else 1.1", "1.2", SPLIT),
    Mutant("alps ends as it likes", "sparsity/methods/alps.py", "if changed == 0 or", "if changed < 1e-2 or", SPLIT),
    Mutant("round for floor", f"{PATTERNS}/unstructured.py", "math.floor(", "round(", MASKS),
    Mutant(
        "binary for decimal",
        f"{PATTERNS}/unstructured.py",
        "Fraction(str(self.sparsity)) * score",
        "Fraction(self.sparsity) * score",
        MASKS,
    ),
    Mutant("all ties removed", f"{PATTERNS}/unstructured.py", "(tied_GN & (", "(tied_GN | (", MASKS),
    Mutant(
        "binary for decimal parts",
        f"{PATTERNS}/unstructured.py",
        "float(Fraction(str(self.sparsity)) * Fraction(str(share)))",
        "self.sparsity * share",
        MASKS,
    ),
    Mutant("parts rounded up", f"{PATTERNS}/n_of_m.py", "math.floor(", "math.ceil(", MASKS),
    Mutant("row for layer scope", f"{PATTERNS}/unstructured.py", 'if scope == "row"', "if True", MASKS),
    Mutant("n removed instead of kept", f"{PATTERNS}/n_of_m.py", ": self.m - self.n]", ": self.n]", MASKS),
    Mutant(
        "ties in any order",
        f"{PATTERNS}/n_of_m.py",
        "score_GM.argsort(dim=-1, stable=True)",
        "score_GM.flip(1).argsort(dim=-1)",
        MASKS,
    ),
    Mutant("first block's call for all", STREAM, "self._calls[i][block.index]", "self._calls[i][0]", WALK),
    Mutant("dense propagation prunes", STREAM, "and self._passed is not None:", "and False:", WALK),
    Mutant("states shared for ever", STREAM, "elif len(common) < holders[id(folded)]:", "elif False:", WALK),
    Mutant("only a layer's first call", STREAM, "for x_BTI in seen:", "for x_BTI in seen[:1]:", WALK),
    Mutant("equal shapes taken for equal", STREAM, "or torch.equal(other_ANY, x_ANY)", "or True", WALK),
    Mutant(
        "corrector ignored",
        "sparsity/engine.py",
        "processes.first(corrected.weight_OI)",
        "processes.first(pruned.weight_OI)",
        ENGINE,
    ),
    Mutant("statistics outlive their layer", "sparsity/engine.py", "stats.pop(site)", "stats[site]", ENGINE),
    Mutant("a pass too many", "sparsity/engine.py", "if block.index < plan.last:", "if True:", WALK),
    Mutant(
        "scope ignored",
        "sparsity/engine.py",
        "tuple(decoder.sites if sites is None else sites)",
        "tuple(decoder.sites)",
        ENGINE,
    ),
    Mutant(
        "perplexity shifted by one",
        "sparsity/evaluation/perplexity.py",
        "logits_TV[:-1].float(), target_T[1:]",
        "logits_TV[1:].float(), target_T[1:]",
        "tests/test_perplexity.py",
    ),
    Mutant(
        "windows overlap",
        "sparsity/datasets/tokens.py",
        "ids_N[: asked * seqlen].view(asked, seqlen)",
        "ids_N.unfold(0, seqlen, 1)[:asked]",
        "tests/test_tokens.py",
    ),
    Mutant(
        "zeros not recounted",
        "sparsity/runs/pipeline.py",
        "weights - sum(nonzeros",
        "sum(nonzeros",
        "tests/test_run.py",
    ),
    Mutant(
        "any target allowed", "sparsity/runs/build.py", "not in (OURS, *allow)", "in ()", "tests/test_target_guard.py"
    ),
    Mutant(
        "the key forgets the method",
        "sparsity/runs/key.py",
        'if group != "tracker"',
        'if group not in ("tracker", "method")',
        "tests/test_run_key.py",
    ),
    Mutant("normalise ignored", TFIDF, "relative_RJ if self.normalise else mean_RJ", "mean_RJ", RANKED),
    Mutant("the IDF's sign", TFIDF, ".log() + 1", ".log().neg() + 1", RANKED),
    Mutant("a row for a column", NEURONS, 'if neurons.axis == "column":', 'if neurons.axis == "row":', SCORED),
    Mutant("a fused gate ranked with its up", TFIDF, "state.mean_RJ[:, :count]", "state.mean_RJ", SCORED),
    Mutant(
        "gate before and behind its function",
        NEURONS,
        "neurons.activation if after else neurons.gate",
        "neurons.gate if after else neurons.activation",
        SCORED,
    ),
    Mutant("a missing neuron is no mistake", NEURONS, "if site.neurons is None:", "if False:", SCORED),
    Mutant(
        "the old TF is a sum",
        "sparsity/methods/neuronrank_old.py",
        "state.total_J / state.tokens",
        "state.total_J",
        SCORED,
    ),
    Mutant(
        "sums of a document for means",
        "sparsity/statistics/grouped_activity.py",
        "self.total_RJ / self.tokens_R[:, None]",
        "self.total_RJ",
        TAPS,
    ),
    Mutant(
        "labels of the first batch for all",
        STREAM,
        "(rows, batches[i])",
        "(rows, batches[0][: len(self.hidden[i])])",
        TAPS,
    ),
    Mutant("labels made for every block", STREAM, "if grouping not in self._labels:", "if True:", TAPS),
    Mutant("a tap's wrong side", STREAM, 'if side == "input":', 'if side == "output":', TAPS),
    Mutant("a tap of the layer itself", "sparsity/core.py", "self.of or site.name", "site.name", TAPS),
    Mutant(
        "the last attention layer defined is the output's",
        "sparsity/models/neurons.py",
        "if shapes[path].outputs == width][-1:]",
        "][-1:]",
        "tests/test_neurons.py",
    ),
    Mutant("windows are not centred", TOPICS, "windows_NE - windows_NE.mean(0)", "windows_NE", "tests/test_topics.py"),
    Mutant(
        "topics by sequence",
        TOPICS,
        ".repeat_interleave(self.window, dim=1)",
        ".repeat(1, self.window)",
        "tests/test_topics.py",
    ),
    Mutant(
        "RIA without its columns",
        "sparsity/methods/ria.py",
        "size_OI / size_OI.sum(0",
        "0 * size_OI / size_OI.sum(0",
        "tests/test_ria.py",
    ),
    Mutant(
        "a role before a name",
        "sparsity/methods/route.py",
        '(site.leaf, site.role, "default")',
        '(site.role, site.leaf, "default")',
        "tests/test_route.py",
    ),
    Mutant(
        "a tracker's failure is the run's",
        WATCH,
        "except Exception as error:",
        "except ZeroDivisionError as error:",
        f"{WATCHED}::test_a_tracker_that_fails_is_left_out_and_changes_nothing",
    ),
    Mutant(
        "a tracker is not told of a failure",
        WATCH,
        "if error is not None:",
        "if False:",
        f"{WATCHED}::test_a_run_that_fails_ends_as_failed",
    ),
    Mutant(
        "a tracker is not told of the sweep",
        "sparsity/runs/pipeline.py",
        "place.sweep.name if place.sweep else None",
        "None",
        f"{WATCHED}::test_the_points_of_a_sweep_are_a_group",
    ),
    Mutant("the head ignored", "sparsity/engine.py", "    if plan.head:", "    if False:", "tests/test_head.py"),
    Mutant(
        "the head pruned by the method",
        "sparsity/engine.py",
        'plan, method=Magnitude("layer"), corrector',
        "plan, corrector",
        "tests/test_head.py",
    ),
    Mutant(
        "windows one by one",
        "sparsity/comparison/windows.py",
        "math.ceil(count ** (1 / 3))",
        "1",
        BOOTSTRAP,
    ),
    Mutant(
        "a difference that may lie below Student's",
        "sparsity/comparison/windows.py",
        "max((1 + beyond) / (len(ratio_R) + 1), normal.p)",
        "(1 + beyond) / (len(ratio_R) + 1)",
        BOOTSTRAP,
    ),
    Mutant(
        "Tango's quadratic",
        "sparsity/comparison/accuracies.py",
        "8 * count * lost",
        "4 * count * lost",
        COMPARED,
    ),
    Mutant(
        "Bonferroni for Holm",
        "sparsity/comparison/multiplicity.py",
        "(len(p_values) - rank)",
        "len(p_values)",
        COMPARED,
    ),
    Mutant(
        "a winner on the worse side",
        "sparsity/comparison/multiplicity.py",
        '== (better == "smaller")',
        '!= (better == "smaller")',
        COMPARED,
    ),
    Mutant("layers share no recalled state", RECALL, "if id(folded) not in numbers:", "if True:", RECALLED),
    Mutant("a state that is known is collected again", RECALL, "if name(site, tap) not in places", "if True", RECALLED),
    Mutant("a damaged file is read", f"{CACHE}/entry.py", "if damage is None:", "if True:", RECALLED),
    Mutant(
        "the last used goes first",
        f"{CACHE}/keep.py",
        "key=lambda item: item.used)",
        "key=lambda item: -item.used)",
        RECALLED,
    ),
    Mutant("what cannot fit drives others out", f"{CACHE}/keep.py", "if expected > self.limit:", "if False:", RECALLED),
    Mutant(
        "batches are not in the key of statistics",
        "sparsity/runs/calibration.py",
        '"batch_size": batch_size,',
        "",
        RECALLED,
    ),
    Mutant("the hidden states of another block", JOURNAL, "hidden-{index + 1:03d}", "hidden-{index:03d}", JOURNALS),
    Mutant("a journal of other conditions", JOURNAL, "if was != now)", "if False)", JOURNALS),
    Mutant(
        "masks of a resumed run are not hashed",
        "sparsity/runs/pruning.py",
        'add(row, was.keeps[row["name"]])',
        "rows.append(row)",
        JOURNALS,
    ),
    Mutant("the model is not restored", HELD, "self._restore(self._dense)", "pass", SWEPT),
    Mutant(
        "a restored model is taken on trust",
        HELD,
        "if self._dense.decoder.fingerprint() == self._dense.fingerprint:",
        "if True:",
        SWEPT,
    ),
    Mutant(
        "points of an earlier sweep",
        "sparsity/runs/sweeps.py",
        "shutil.rmtree(sweep / POINTS, ignore_errors=True)",
        "pass",
        SWEPT,
    ),
    Mutant(
        "a share below its fraction", f"{PATTERNS}/unstructured.py", "str(sparsity)) < share", "sparsity) < 0", SHARED
    ),
    Mutant("the last weights lost", f"{SHARES}/exact.py", "    if left:", "    if False:", SHARED),
    Mutant("a row emptied", f"{SHARES}/exact.py", "< shapes[site][1] - 1", "< shapes[site][1]", SHARED),
    Mutant("shares out of bounds", f"{SHARES}/balance.py", ".clamp(low, high)", "", SHARED),
    Mutant("costs not by weight", f"{SHARES}/balance.py", " / size_G[:, None]", "", SHARED),
    Mutant("outliers given away", f"{SHARES}/owl.py", "self.lam * (2", "-self.lam * (2", SHARED),
    Mutant("each layer's own mean", f"{SHARES}/owl.py", "* mean)", "* score_OI.mean())", SHARED),
    Mutant("a group left pruned", f"{SHARES}/probe.py", "write(site, weight_OI)", "layer(site)", SHARED),
    Mutant("a probe a block late", f"{SHARES}/probe.py", "_behind(stream, block.index)", "_behind(stream, 1)", SHARED),
    Mutant("probes pile up", f"{SHARES}/probe.py", "stream.hidden = list(here)", "pass", SHARED),
    Mutant("the loss of survivors", f"{SHARES}/sensitivity.py", ".sort(1)", ".sort(1, descending=True)", SHARED),
    Mutant("one pattern for all", "sparsity/runs/allocating.py", ", **found.patterns", "", ALLOTTED),
    Mutant("one measurement for all", "sparsity/runs/allocating.py", "allocation.measurement,", "0,", ALLOTTED),
    *SUCCESSORS,
    *BLOCKS,
    *PROCESSES,
    *SHORTCUTS,
    *STREAMING,
    *HELD_OUT,
)


def copied(into: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, into / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, into / name)
    return into


def tests_pass(checkout: Path, *tests: str) -> bool:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not cuda",
        *tests,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, check=False).returncode == 0


def survives(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        checkout = copied(Path(folder))
        path = checkout / mutant.file
        source = path.read_text()
        found = source.count(mutant.line)
        if found != 1:
            raise SystemExit(
                f"{mutant.name}: {mutant.line!r} occurs {found} times in {mutant.file}: expected once. Mend the mutant"
            )
        path.write_text(source.replace(mutant.line, mutant.becomes))
        return tests_pass(checkout, mutant.tests)


def main(words: list[str]) -> None:
    if unknown := [word for word in words if not any(word in m.name for m in MUTANTS)]:
        raise SystemExit(f"{__doc__}\n{' '.join(unknown)}: no mutant's name holds it. Expected part of one")
    mutants = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        if not tests_pass(copied(Path(folder)), *sorted({m.tests for m in mutants})):
            raise SystemExit("the tests are red without any mutant: mend that first")
    survivors = []
    with ThreadPoolExecutor(max_workers=2) as pool:
        for mutant, survived in zip(mutants, pool.map(survives, mutants), strict=True):
            print(f"{'SURVIVED' if survived else 'killed':9} {mutant.name} ({mutant.file})", flush=True)
            survivors += [mutant.name] * survived
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed")
    if survivors:
        raise SystemExit("survivors: " + ", ".join(survivors))


if __name__ == "__main__":
    main(sys.argv[1:])

"""What a run says it will need: known arithmetic for a known shape, and what a process then takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import MEASURED, SMALL, command, run
from composing import assembled, compose

from experiments.bench.memory import LLAMA_70B, Run, llama, write
from experiments.bench.memory import run as measured
from sparsity.engine import Plan, plan
from sparsity.models import Decoder
from sparsity.models.skeleton import skeleton
from sparsity.options.settings import read
from sparsity.stages import STAGES
from sparsity.stages.pruning import COPIES, FACTORS, WORK
from sparsity.stages.resources import PROGRAM, Needed, needed, rate
from sparsity.stages.sizes import KEPT, shapes, statistics
from sparsity.stages.stage import Outlook
from sparsity.tuning import Tuning

WIDTH, INNER, BLOCKS, VOCABULARY = 8192, 28672, 80, 32000
LAYERS = 2 * WIDTH**2 + 2 * WIDTH * 1024 + 3 * WIDTH * INNER  # q and o, k and v of 8 heads, gate, up and down
BLOCK = 2 * (LAYERS + 2 * WIDTH)  # bytes, with two norms
OUTSIDE = 2 * (2 * VOCABULARY * WIDTH + WIDTH)  # embeddings, head, norm
GRAMS = 4 * (3 * WIDTH**2 + INNER**2)  # of q, k and v; of o; of gate and up; of down


@pytest.fixture(scope="module")
def llama_70b() -> Decoder:
    return Decoder(skeleton(LLAMA_70B, torch.bfloat16))


def asked(decoder: Decoder, *words: str, tokens: int = 0, stream: bool = True) -> tuple[Plan, Needed]:
    words = ("calibration=paper", *words)
    parts, settings = assembled(*words), read(compose(*words))
    whole = {"head": settings.scope.lm_head, "refinement": parts.refine}
    the_plan = plan(decoder, parts.method, parts.pattern, parts.corrector, None, settings.errors, **whole)
    return the_plan, needed(STAGES, Outlook(settings, parts, decoder, the_plan, tokens, stream))


def test_the_shapes_of_llama_70b(llama_70b):
    of = shapes(llama_70b)
    assert (of.block, of.outside, of.blocks) == (BLOCK, OUTSIDE, BLOCKS * BLOCK)
    assert (of.linear, of.layer, of.vocabulary) == (LAYERS, WIDTH * INNER, VOCABULARY)
    assert of.weights == 2 * 68_976_648_192  # its parameters, as its card says


def test_the_statistics_of_a_block_of_llama_70b(llama_70b):
    the_plan, need = asked(llama_70b, "method=sparsegpt")
    calibration = read(compose("calibration=paper")).calibration
    assert statistics(calibration, llama_70b, the_plan.needs) == dict.fromkeys(range(BLOCKS), GRAMS)
    assert need.stages["prune"]["statistics"] == GRAMS
    _, vectors = asked(llama_70b, "method=wanda")
    assert vectors.stages["prune"]["statistics"] < GRAMS / 1000
    _, nothing = asked(llama_70b, "method=magnitude")
    assert nothing.stages["prune"]["statistics"] == nothing.stages["prune"]["hidden states"] == 0


@pytest.mark.parametrize(
    "words,copies",
    [
        ((), 1),
        (("calibration.propagate=dense",), 2),
        (("refine=block", "refine.target=own"), 2),
        (("refine=block", "refine.target=dense"), 3),
    ],
)
def test_hidden_states_are_counted_as_often_as_they_are_held(llama_70b, words, copies):
    _, need = asked(llama_70b, "method=wanda", *words)
    assert need.stages["prune"]["hidden states"] == copies * 2 * 128 * 2048 * WIDTH


def test_memory_is_the_model_and_the_hungriest_stage(llama_70b):
    _, need = asked(llama_70b, "method=sparsegpt")
    stages = {stage: sum(held.values()) for stage, held in need.stages.items()}
    assert need.memory == PROGRAM + OUTSIDE + BLOCK + max(stages.values())
    assert stages[need.most] == max(stages.values())
    assert need.stages["prune"]["work"] == 4 * WORK * WIDTH * INNER + FACTORS * 4 * INNER**2
    _, tuned = asked(llama_70b, "method=wanda", "refine=block")
    assert (tuned.most, tuned.stages["refine"]["tuned weights"]) == ("refine", 24 * LAYERS)
    for journal, held in (("true", 2), ("false", 1)):  # the journal holds a block that rests in files while it writes
        words = ("method=sparsegpt", f"journal={journal}")
        whole, streamed = (asked(llama_70b, *words, stream=stream)[1] for stream in (False, True))
        assert whole.memory - streamed.memory == (BLOCKS - held) * BLOCK


def test_a_sweep_holds_the_model_twice_unless_its_blocks_rest_in_files(llama_70b):
    parts, settings = assembled("method=wanda"), read(compose("method=wanda"))
    the_plan = plan(llama_70b, parts.method, parts.pattern, parts.corrector)
    alone, swept, streamed, streamed_sweep = (
        needed(STAGES, Outlook(settings, parts, llama_70b, the_plan, 0, stream, sweep)).memory
        for stream, sweep in ((False, False), (False, True), (True, False), (True, True))
    )
    assert swept - alone == OUTSIDE + BLOCKS * BLOCK
    assert streamed == streamed_sweep


def test_the_journal_holds_what_a_file_is_made_of_and_the_file(llama_70b):
    _, need = asked(llama_70b, "method=wanda")
    hidden = 2 * 128 * 2048 * WIDTH
    assert need.stages["prune"]["journal"] == hidden + BLOCK + max(hidden, BLOCK)
    assert need.stages["observe"]["journal"] == hidden + BLOCK + COPIES * max(hidden, BLOCK)
    _, none = asked(llama_70b, "method=wanda", "journal=false")
    assert none.stages["prune"]["journal"] == none.stages["observe"]["journal"] == 0


def test_memory_read_block_by_block_does_not_know_the_depth():
    found = []
    for blocks in (2, 5):
        decoder = Decoder(skeleton(llama(blocks, 64, 128, 4, 96), torch.float32))
        found.append([asked(decoder, "method=sparsegpt", stream=stream)[1].memory for stream in (True, False)])
    assert found[0][0] == found[1][0]
    assert found[0][1] < found[1][1]


def test_a_recovery_holds_copies_of_all_that_is_pruned_and_the_activations_of_a_batch(llama_70b):
    pruned, text = BLOCKS * LAYERS, 128 * 2048
    words = ("method=wanda", "recover=distill")
    _, need = asked(llama_70b, *words, stream=False)
    assert need.stages["recover"] == {"tuned weights": 6 * 4 * pruned, "masks": pruned}
    assert need.stages["learn"]["tuned weights"] == 4 * 4 * pruned
    assert need.model["dense model's predictions"] == 2 * text * WIDTH
    outputs = 3 * WIDTH + 2 * 1024 + 2 * INNER
    assert need.stages["learn"]["activations"] == 2 * 4 * 2048 * KEPT * outputs * BLOCKS
    _, again = asked(llama_70b, *words, "recover.recompute=true", stream=False)
    assert again.stages["learn"]["activations"] == 2 * 4 * 2048 * (KEPT * outputs + WIDTH * BLOCKS)
    _, head = asked(llama_70b, *words, "scope.lm_head=true", stream=False)
    assert head.model["dense model's predictions"] - need.model["dense model's predictions"] == OUTSIDE
    _, none = asked(llama_70b, "method=wanda", stream=False)
    assert not {"recover", "learn"} & none.stages.keys()
    assert "dense model's predictions" not in none.model


def test_a_model_in_float32_is_the_copy_that_is_tuned():
    small = llama(2, 64, 128, 4, 96)
    copies = []
    for dtype in (torch.bfloat16, torch.float32):
        _, need = asked(Decoder(skeleton(small, dtype)), "method=wanda", "recover=distill", stream=False)
        pruned = need.stages["recover"]["masks"]
        copies.append(need.stages["recover"]["tuned weights"] // (4 * pruned))
    assert copies == [6, 5]


def test_what_the_model_writes_is_calibrated_on_and_has_keys_and_values(llama_70b):
    _, need = asked(llama_70b, "method=wanda", "calibration.written=20", stream=False)
    assert need.stages["prune"]["hidden states"] == 2 * 148 * 2048 * WIDTH
    assert need.stages["write"]["keys and values"] == 2 * 2 * 16 * 2048 * 1024 * BLOCKS  # 16 at once, 8 heads of 128
    assert need.stages["write"]["logits"] == 2 * 16 * 16 * VOCABULARY
    each = BLOCKS * (2 * LAYERS + 4 * 2048 * WIDTH) + 2 * VOCABULARY * WIDTH
    assert need.operations["writing"] == 20 * 2048 * each
    _, unread = asked(llama_70b, "method=magnitude", "calibration.written=20", stream=False)
    assert "write" not in unread.stages  # nothing reads it, so nothing is written
    assert unread.operations["writing"] == 0


def test_text_that_is_held_out_has_states_and_grams_of_its_own(llama_70b):
    words = ("method=sparsegpt", "layer_error=true")
    (_, need), (_, judged) = asked(llama_70b, *words), asked(llama_70b, *words, "calibration.held_out=32")
    assert judged.stages["prune"]["statistics"] == 2 * GRAMS
    assert judged.stages["prune"]["hidden states"] == need.stages["prune"]["hidden states"] * 160 // 128
    for what in ("calibration", "statistics"):
        assert judged.operations[what] == need.operations[what] * 160 // 128


def test_disk_by_what_is_kept(llama_70b):
    _, need = asked(llama_70b, "method=wanda", "journal=false", "save=true")
    assert need.disk == {"checkpoint": OUTSIDE + BLOCKS * BLOCK, "changed blocks": 0, "journal": 0, "statistics": 0}
    _, need = asked(llama_70b, "method=wanda", "journal=false")
    assert need.disk["changed blocks"] == BLOCKS * BLOCK
    _, need = asked(llama_70b, "method=wanda", stream=False)
    pruned, hidden = BLOCKS * LAYERS, 2 * 128 * 2048 * WIDTH
    assert need.disk["journal"] == 2 * pruned + pruned // 8 + 2 * hidden  # weights, bits, states in front and behind
    _, need = asked(llama_70b, "method=sparsegpt", "calibration.propagate=dense", stream=False)
    assert need.disk["statistics"] == BLOCKS * GRAMS


def test_operations_of_passes_grams_and_evaluation(llama_70b):
    n, window = 128 * 2048, 2 * LAYERS + 4 * 2048 * WIDTH
    evaluation = ("evaluation=wikitext2_2048", "evaluation.perplexity.windows=4")
    _, need = asked(llama_70b, "method=sparsegpt", *evaluation)
    assert need.operations["calibration"] == 2 * n * BLOCKS * window
    assert need.operations["statistics"] == n * BLOCKS * GRAMS // 4
    assert need.operations["evaluation"] == 2 * 4 * 2048 * (BLOCKS * window + 2 * VOCABULARY * WIDTH)
    _, few = asked(llama_70b, "method=sparsegpt", *evaluation, tokens=2 * 2048)
    assert few.operations["evaluation"] == need.operations["evaluation"] / 2  # the text has two windows
    assert need.seconds(2e12) > need.seconds(4e12) > 0


def test_operations_of_tunings_are_those_of_the_passes_that_they_make(llama_70b):
    window, n = 2 * LAYERS + 4 * 2048 * WIDTH, 128 * 2048
    tuned, wanted = n * 7 // 8, n // 8
    each = (
        3 * 2 * tuned + 3 * wanted + 2 * wanted
    )  # two epochs; what is held out before and after each; as much of the rest twice
    _, need = asked(llama_70b, "method=wanda", "calibration.batch_size=1", "refine=block", "refine.epochs=2")
    assert need.operations["refining"] == each * BLOCKS * window
    assert need.operations["recovering"] == 0
    words = ("calibration.batch_size=1", "recover=distill", "recover.epochs=2")
    _, need = asked(llama_70b, "method=wanda", *words, stream=False)
    assert need.operations["recovering"] == each * (BLOCKS * window + 2 * VOCABULARY * WIDTH)
    assert need.operations["refining"] == 0


def test_operations_of_solves_are_those_that_methods_and_correctors_say(llama_70b):
    _, scores = asked(llama_70b, "method=wanda")
    assert scores.operations["solving"] == 0
    _, steps = asked(llama_70b, "method=wanda", "corrector=optimal")
    _, more = asked(llama_70b, "method=wanda", "corrector=optimal", "corrector.steps=20")
    shapes = 2 * [(WIDTH, WIDTH), (1024, WIDTH), (INNER, WIDTH)] + [
        (WIDTH, INNER)
    ]  # q and o, k and v, gate and up; down
    product = BLOCKS * sum(2 * outputs * inputs**2 for outputs, inputs in shapes)
    assert steps.operations["solving"] == 13 * product
    assert more.operations["solving"] - steps.operations["solving"] == 10 * product
    _, attention = asked(llama_70b, "method=hybrid", "method@method.routes.attention=sparsegpt")
    small = BLOCKS * sum(2 * o * i**2 * (0.5 + i / (3 * o)) for o, i in 2 * [(WIDTH, WIDTH), (1024, WIDTH)])
    assert attention.operations["solving"] == pytest.approx(small, rel=1e-12)
    _, admm = asked(llama_70b, "method=admm")
    _, default = asked(llama_70b, "method=pursuit", "method@method.base=admm")
    assert default.operations["solving"] > admm.operations["solving"] > 20 * product


@pytest.mark.parametrize(("batches", "held_out"), [(1, 0.0), (9, 0.0), (2, 0.25), (9, 0.25), (9, 0.8)])
def test_a_tuning_makes_the_passes_that_it_says(batches, held_out):
    tuning = Tuning(3, 0.1, held_out, patience=3, seed=0)
    passes, weight = [], torch.ones(1, requires_grad=True)

    def slope(batch: int) -> None:
        passes.extend([batch] * 3)
        weight.grad = torch.ones(1)

    def cost(judged: range) -> float:
        passes.extend(judged)
        return 1.0 - len(passes)

    tuning.tune("error", [weight], slope, cost, batches)
    assert len(passes) == tuning.passes(batches)


def test_the_rate_is_a_rate():
    assert rate(torch.device("cpu"), torch.float32) > 1e8


@pytest.mark.usefixtures("work")
def test_a_run_says_it_before_it_starts_and_a_plan_too():
    found = run(*MEASURED, "method=sparsegpt")
    assert found.result["needed"]["memory_bytes"] > 2**26
    for words in ((), ("plan=true",)):
        ended = command(*SMALL, *MEASURED, "method=sparsegpt", "rerun=true", *words)
        for said in ("will need about", "of memory", "of disk", "TFLOP", "GFLOP/s"):
            assert said in ended.out
        assert "dense copy for the sweep" not in ended.out
    assert "dense copy for the sweep" in command("-m", *SMALL, *MEASURED, "method=sparsegpt", "plan=true").out


# --- what a process takes ---------------------------------------------------------------------------------------------

RUNS = {
    "8 streamed": (8, "model.stream=true", "method=wanda", "save=true"),
    "32 streamed": (32, "model.stream=true", "method=wanda", "save=true"),
    "32 whole": (32, "model.stream=false", "method=wanda", "save=true"),
    "8 streamed, sparsegpt": (8, "model.stream=true", "method=sparsegpt"),
    "8 streamed, refined": (8, "model.stream=true", "method=wanda", "refine=block", "refine.epochs=2"),
    "8 whole, recovered": (8, "model.stream=false", "method=wanda", "recover=distill", "recover.epochs=2"),
}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The peak memory of processes, by name."""
    folder: Path = tmp_path_factory.mktemp("models")
    models = {n: write(folder / str(n), llama(n, 768, 2048, 12, 8192), torch.float32) for n in (8, 32)}
    return {name: measured(models[blocks], 64, *words) for name, (blocks, *words) in RUNS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_process_takes_what_it_said_within_a_fifth(peaks, name):
    print(peaks[name])
    assert peaks[name].needed == pytest.approx(peaks[name].peak, rel=0.2)


@pytest.mark.slow
def test_the_peak_does_not_grow_with_depth(peaks):
    """Of blocks of 27 MiB, all of which a whole model holds."""
    growth = peaks["32 streamed"].peak - peaks["8 streamed"].peak
    assert growth < 0.05 * peaks["8 streamed"].peak
    assert peaks["32 whole"].peak > peaks["32 streamed"].peak + 20 * 27 * 2**20

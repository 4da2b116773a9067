"""Text that is held out is learnt from by nobody, and the layers' errors on it are those that were defined on the other text."""

from __future__ import annotations

from statistics import fmean

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from commands import SMALL, UNMEASURED, command, run

from sparsity.core import UserError
from sparsity.correctors import Hessian, NoCorrection
from sparsity.datasets import sample, sample_apart
from sparsity.engine import plan, prune
from sparsity.methods import Magnitude, SparseGPT
from sparsity.models import Decoder
from sparsity.patterns import Unstructured

HALF = Unstructured(0.5)
HESSIAN = Hessian("all", 1.0, "l2", None, 0.01)
SPARSEGPT = SparseGPT("row", 0.01, 16)
HELD = ("calibration.held_out=2",)
JUDGED = (UNMEASURED, "layer_error=true", "save=true")


def draw(length: int, sequences: int, held_out: int, seqlen: int, seed: int = 0):
    return sample_apart(torch.arange(length), sequences, held_out, seqlen, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(20))
def test_no_token_is_learnt_from_and_held_out(seed):
    ids_BT, held_out_HT = draw(100, 3, 50, 7, seed)
    assert held_out_HT.shape == (50, 7)
    assert torch.equal(held_out_HT[:, 1:], held_out_HT[:, :-1] + 1)
    assert not set(ids_BT.flatten().tolist()) & set(held_out_HT.flatten().tolist())
    assert torch.equal(ids_BT, sample(torch.arange(100), 3, 7, torch.Generator().manual_seed(seed)))


def test_every_place_that_is_free_is_held_out_sometime():
    ids_BT, held_out_HT = draw(40, 2, 5000, 5)
    taken = set(ids_BT.flatten().tolist())
    free = {start for start in range(36) if not taken & set(range(start, start + 5))}
    assert set(held_out_HT[:, 0].tolist()) == free


def test_text_that_leaves_nothing_to_hold_out_is_refused():
    assert draw(15, 2, 0, 5)[1].shape == (0, 5)
    for seed in range(10):
        with pytest.raises(UserError, match="leave no 8 consecutive tokens"):
            draw(16, 2, 1, 8, seed)


def reports(name, method, propagate, held_out, corrector):
    decoder = Decoder(zoo.build(CONFIGS[name](), torch.float32))

    def along(ids_BT):
        return zoo.stream(decoder, ids_BT, propagate)

    the_plan = plan(decoder, method, HALF, corrector, layer_error="auto")
    found = list(prune(along(zoo.ids()), the_plan, None if held_out is None else along(held_out)))
    return decoder, found


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2"])
def test_on_the_same_text_it_is_the_same_error(name, propagate):
    _, found = reports(name, SPARSEGPT, propagate, zoo.ids(), HESSIAN)
    assert [report.held_out_error for report in found] == [report.error for report in found]
    assert all(0 < report.held_out_error != report.error_before for report in found)


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
def test_it_is_known_where_nothing_else_is_asked_of_the_text(propagate):
    """Magnitude reads no text: its own stream stays in front of the first block, the other one must not."""
    _, found = reports("llama", Magnitude("row"), propagate, zoo.ids(), NoCorrection())
    assert all(report.error is None for report in found)
    decoder = Decoder(zoo.build(CONFIGS["llama"](), torch.float32))
    stream = zoo.stream(decoder, propagate=propagate)
    judged = list(prune(stream, plan(decoder, Magnitude("row"), HALF, NoCorrection(), layer_error=True)))
    assert [report.held_out_error for report in found] == [report.error for report in judged]


@pytest.mark.parametrize("propagate", ["pruned", "dense"])
def test_nothing_is_learnt_from_it(work, propagate):
    words = (*JUDGED, "method=sparsegpt", "corrector=optimal", f"calibration.propagate={propagate}")
    without, held = run(*words, into="without"), run(*words, *HELD, into="held")
    assert held.result["mask_sha256"] == without.result["mask_sha256"]
    for name, weight in without.weights.items():
        assert torch.equal(held.weights[name], weight), name
    assert [row["relative_error"] for row in held.layers] == [row["relative_error"] for row in without.layers]
    assert all("held_out_error" not in row for row in without.layers)
    assert without.result["layers"]["held_out_error_mean"] is None


def test_an_exact_fit_is_worse_on_text_that_it_did_not_see(work):
    found = run(UNMEASURED, *HELD, "corrector=optimal", into="held")
    unseen, seen = (fmean(float(row[name]) for row in found.layers) for name in ("held_out_error", "relative_error"))
    assert unseen > seen
    assert found.result["layers"]["held_out_error_mean"] == pytest.approx(unseen)


def test_it_is_kept_like_other_statistics(work):
    words = (UNMEASURED, *HELD, "calibration.propagate=dense", "method=wanda")
    cold, warm = run(*words, into="cold"), run(*words, into="warm")
    assert cold.result["calibration"]["block_forwards"] == 4  # two blocks, a batch of either text
    assert warm.result["calibration"]["block_forwards"] == 0
    assert [row["held_out_error"] for row in warm.layers] == [row["held_out_error"] for row in cold.layers]


def test_a_plan_says_so(work):
    assert "and 2 to measure the layers' errors on" in command(*SMALL, *HELD, "plan=true").out


def test_errors_that_nobody_wants_are_not_taken_on_it(work):
    ended = command(*SMALL, *HELD, "layer_error=false")
    assert ended.status == 1
    assert (
        "calibration.held_out=2 is text to measure the layers' errors on, and layer_error=false measures none"
        in ended.err
    )

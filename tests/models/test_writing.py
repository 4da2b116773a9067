"""Written text is drawn from the model's own distribution, token by token; a run calibrates on it and on its other text."""

from __future__ import annotations

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from commands import MEASURED, SMALL, UNMEASURED, L, command, run

from sparsity.models.writing import AT_ONCE, written


def drawn(model, prompts_BP, seqlen, seed):
    """By the definition: the whole sequence is read again for every token."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = prompts_BP
    while ids_BT.shape[1] < seqlen:
        with torch.no_grad():
            p_BV = model(input_ids=ids_BT, use_cache=False).logits[:, -1].softmax(-1)
        ids_BT = torch.cat([ids_BT, torch.multinomial(p_BV, 1, generator=generator)], 1)
    return ids_BT


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2", "gpt_neox"])
def test_every_token_is_drawn_from_what_the_model_expects(name):
    model = zoo.build(CONFIGS[name](), torch.float64)
    model.generation_config.eos_token_id = None
    prompts_BP = zoo.ids(3, 2)
    found_BT = written(model, prompts_BP, 9, torch.Generator().manual_seed(1))
    assert torch.equal(found_BT, drawn(model, prompts_BP, 9, 1))
    assert not torch.equal(found_BT, written(model, prompts_BP, 9, torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("ends", [3, [3, 5]])
def test_a_token_that_ends_a_text_is_never_drawn(ends):
    model = zoo.build(CONFIGS["llama"]())
    prompts_BP = zoo.ids(AT_ONCE + 2, 2).clamp(min=6)
    model.generation_config.eos_token_id = None
    free_BT = written(model, prompts_BP, 20, torch.Generator().manual_seed(0))
    assert {3, 5} <= {*free_BT.flatten().tolist()}
    model.generation_config.eos_token_id = ends
    found = {*written(model, prompts_BP, 20, torch.Generator().manual_seed(0)).flatten().tolist()}
    assert found.isdisjoint([ends] if isinstance(ends, int) else ends)


def test_a_run_calibrates_on_what_is_written_once(work, monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return written(*arguments)

    monkeypatch.setattr("sparsity.stages.drawing.written", counted)
    words = (UNMEASURED, "calibration.written=3", "calibration.prompt=4")
    first, second = run(*words, into="a"), run(*words, "sparsity=0.6", into="b")
    assert first.result["calibration"]["tokens"] == second.result["calibration"]["tokens"] == 7 * L
    assert len(calls) == 1
    assert run(UNMEASURED, into="c").result["mask_sha256"] != first.result["mask_sha256"]
    assert len(calls) == 1
    run(*words, "seed=1", into="d")
    assert len(calls) == 2


def test_what_is_written_stands_in_front_and_begins_with_the_text(work, monkeypatch):
    seen = []
    monkeypatch.setattr("sparsity.stages.drawing.leakage", lambda ids_BT, ids_N: seen.append(ids_BT))
    run(*MEASURED, into="a")
    run(
        "calibration.written=2",
        "calibration.prompt=4",
        *MEASURED,
        into="b",
    )
    plain_BT, both_BT = seen
    assert torch.equal(both_BT[2:], plain_BT)
    pieces = {tuple(piece) for piece in plain_BT.unfold(1, 4, 1).flatten(0, 1).tolist()}
    assert {tuple(ids) for ids in both_BT[:2, :4].tolist()} <= pieces


def test_a_prompt_must_leave_something_to_write(work):
    ended = command(*SMALL, UNMEASURED, "calibration.written=1", f"calibration.prompt={L}")
    assert ended.status == 1
    assert "leaves nothing" in ended.err


def test_the_plan_says_so(work):
    assert "3 more that the model writes" in command(*SMALL, "calibration.written=3", "plan=true").out

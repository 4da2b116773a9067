"""Continuations are the model's own most likely tokens; where two models part is counted in tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from checkpoints import TINY, tiny

from sparsity.core import UserError
from sparsity.evaluation import Generation
from sparsity.models import Decoder

PROMPTS = ["Water boils", "def f(n):"]
NONE = torch.empty(0)


def greedy(loaded, prompt, new):
    ids = loaded.tokenizer(prompt)["input_ids"]
    start = len(ids)
    for _ in range(new):
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == loaded.model.generation_config.eos_token_id:
            break
    return ids[start:]


def test_it_writes_the_most_likely_tokens_and_says_where_two_models_part():
    a, b = TINY.load(None), replace(TINY, seed=1).load(None)
    evaluator = Generation(PROMPTS, 12)
    dense, other = Decoder(a.model, a.tokenizer), Decoder(b.model, b.tokenizer)
    measured = evaluator.compare(other, NONE, evaluator.reference(dense, NONE))
    for prompt, row in zip(PROMPTS, measured.rows, strict=True):
        left, right = greedy(a, prompt, 12), greedy(b, prompt, 12)
        common = next(
            (i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right))
        )
        assert row == {
            "prompt": prompt,
            "dense": a.tokenizer.decode(left),
            "pruned": b.tokenizer.decode(right),
            "common_tokens": common,
        }
        assert row["dense"] != row["pruned"]
    assert measured.table == "generations"


def test_a_model_never_parts_from_itself():
    a = tiny()
    evaluator, decoder = Generation(PROMPTS, 9), Decoder(a.model, a.tokenizer)
    measured = evaluator.compare(decoder, NONE, evaluator.reference(decoder, NONE))
    lengths = [len(greedy(a, prompt, 9)) for prompt in PROMPTS]
    assert [row["common_tokens"] for row in measured.rows] == lengths
    assert measured.summary["common_tokens"] == sum(lengths) / 2


@pytest.mark.parametrize("prompts, new", [([], 4), (["a", " "], 4), (["a"], 0)])
def test_out_of_range(prompts, new):
    expected = r"expected a (list, .* of text \(not empty\), with one entry at least|whole number >= 1)"
    with pytest.raises(UserError, match=expected):
        Generation(prompts, new)


def test_a_model_without_a_tokenizer():
    with pytest.raises(UserError, match="no tokenizer"):
        Generation(PROMPTS, 4).reference(Decoder(tiny().model), NONE)

"""Perplexity: computed again from the saved checkpoint alone, in plain words; its limits; and what is not finite."""

import math

import pytest
import torch
from checkpoints import tiny
from commands import L
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsity.core import UserError
from sparsity.evaluation import Perplexity


def plain_nll(model: torch.nn.Module, ids: list[int]) -> list[float]:
    """Mean NLL of window i = ids[i L : (i+1) L], each of its tokens but the first predicted from those before it."""
    found = []
    for i in range(len(ids) // L):
        window = ids[i * L : (i + 1) * L]
        with torch.no_grad():
            log_p_TV = model(torch.tensor([window])).logits[0].double().log_softmax(-1)
        found.append(-sum(log_p_TV[t, window[t + 1]].item() for t in range(L - 1)) / (L - 1))
    return found


def test_perplexity_is_what_the_windows_and_the_checkpoint_say(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved.checkpoint)
    ids = tokenizer((saved.folder.parent / "evaluation.txt").read_text())["input_ids"]
    models = {"dense": tiny().model, "pruned": AutoModelForCausalLM.from_pretrained(saved.checkpoint)}
    assert [int(row["window"]) for row in saved.windows] == list(range(6))
    assert {int(row["tokens"]) for row in saved.windows} == {L - 1}
    for which, model in models.items():
        nll, tokens = ([float(row[column]) for row in saved.windows] for column in (f"nll_{which}", "tokens"))
        assert nll == pytest.approx(plain_nll(model, ids)[:6], rel=1e-5)
        weighted = sum(n * t for n, t in zip(nll, tokens, strict=True)) / sum(tokens)
        assert saved.result["perplexity"][which] == pytest.approx(math.exp(weighted), rel=1e-12)
    assert saved.result["perplexity"]["pruned"] != saved.result["perplexity"]["dense"]


class Stub:
    """Next-token logits (B, T, V) by a rule, from the ids (B, T)."""

    def __init__(self, rule):
        self.rule = rule

    def logits_of(self, batches):
        return map(self.rule, batches)

    def culprit(self, ids_BT):
        return f"token {ids_BT[0, 0]}"


IDS = torch.randint(50, (10 * L + 7,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_perplexity_in_its_limits(batch_size):
    """Uniform logits: the vocabulary's size. A model that knows the next token: 1. All whole windows are used."""

    def knows(ids_BT):
        return 1e4 * torch.nn.functional.one_hot(ids_BT.roll(-1, dims=1), 50).float()

    evaluator = Perplexity(seqlen=L, windows=None, batch_size=batch_size)
    uniform = Stub(lambda ids_BT: torch.zeros(*ids_BT.shape, 50))
    measured = evaluator.compare(Stub(knows), IDS, evaluator.reference(uniform, IDS))
    assert measured.summary["dense"] == pytest.approx(50, rel=1e-6)
    assert measured.summary["pruned"] == 1
    assert len(measured.rows) == measured.summary["windows"] == 10
    assert measured.summary["tokens"] == sum(row["tokens"] for row in measured.rows) == 10 * (L - 1)


def test_a_window_that_is_not_finite_is_named():
    def breaks(ids_BT):
        logits_BTV = torch.zeros(*ids_BT.shape, 50)
        logits_BTV[(ids_BT == IDS[4 * L : 5 * L]).all(1)] = torch.nan
        return logits_BTV

    with pytest.raises(
        UserError, match=rf"dense model's NLL on evaluation window 4 is nan.* out of token {IDS[4 * L]}\."
    ):
        Perplexity(seqlen=L, windows=None, batch_size=3).reference(Stub(breaks), IDS)

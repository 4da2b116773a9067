"""Divergence: zero from itself, the textbook's sum over full logits, streamed without a trace, and against the dense head."""

from __future__ import annotations

import copy

import pytest
import torch
from checkpoints import TINY, tiny
from torch import nn

from sparsity import predictions
from sparsity.core import UserError
from sparsity.evaluation import Divergence
from sparsity.models import Decoder

T, WINDOWS = 24, 3
IDS = torch.randint(200, (T * WINDOWS + 5,), generator=torch.Generator().manual_seed(0))


def model(**options) -> Decoder:
    return Decoder(tiny(**options).model)


def damaged(dense: Decoder, head: bool = False) -> Decoder:
    """With a third of the block's weights gone, and of the head's."""
    pruned = Decoder(copy.deepcopy(dense.model))
    layers = [linear.module for block in pruned.blocks for linear in block.linears.values()]
    for layer in [*layers, *([pruned.model.get_output_embeddings()] if head else [])]:
        with torch.no_grad():
            layer.weight[:, ::3] = 0
    return pruned


def textbook(dense: nn.Module, pruned: nn.Module) -> tuple[list[float], list[float]]:
    """Per window: the mean over the T - 1 predicting positions of KL(p || q), and of equal favourites."""
    found = []
    for ids in IDS[: T * WINDOWS].view(WINDOWS, T):
        with torch.no_grad():
            p, q = (m(input_ids=ids[None]).logits[0, :-1].double().log_softmax(-1) for m in (dense, pruned))
        found.append(((p.exp() * (p - q)).sum(-1).mean().item(), (p.argmax(-1) == q.argmax(-1)).double().mean().item()))
    return [kl for kl, _ in found], [same for _, same in found]


@pytest.mark.parametrize("positions", [1, 7, 64])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_it_is_the_sum_over_full_logits_however_it_is_streamed(monkeypatch, positions, batch_size):
    monkeypatch.setattr(predictions, "POSITIONS", positions)
    dense = model()
    pruned = damaged(dense)
    evaluator = Divergence(T, None, batch_size)
    measured = evaluator.compare(pruned, IDS, evaluator.reference(dense, IDS))
    kl, agreement = textbook(dense.model, pruned.model)
    assert [row["kl"] for row in measured.rows] == pytest.approx(kl, rel=1e-4)
    assert [row["agreement"] for row in measured.rows] == pytest.approx(agreement)
    assert measured.summary["kl"] == pytest.approx(sum(kl) / WINDOWS, rel=1e-4)
    assert measured.summary["agreement"] == pytest.approx(sum(agreement) / WINDOWS)
    assert (measured.summary["windows"], measured.summary["tokens"]) == (WINDOWS, WINDOWS * (T - 1))
    assert kl[0] > 1e-4  # there was something to see
    assert agreement != [1.0] * WINDOWS


def test_a_model_does_not_diverge_from_itself():
    dense, evaluator = model(), Divergence(T, 2, 1)
    measured = evaluator.compare(dense, IDS, evaluator.reference(dense, IDS))
    assert (measured.summary["kl"], measured.summary["agreement"], len(measured.rows)) == (0, 1, 2)


def test_the_dense_models_own_head_is_used():
    """The pruned model's head and final norm may differ from the dense model's."""
    dense = model(tie_word_embeddings=False)
    pruned = damaged(dense, head=True)
    with torch.no_grad():
        pruned.model.model.norm.weight.mul_(1.5)
    evaluator = Divergence(T, None, 1)
    before = pruned.fingerprint()
    measured = evaluator.compare(pruned, IDS, evaluator.reference(dense, IDS))
    assert [row["kl"] for row in measured.rows] == pytest.approx(textbook(dense.model, pruned.model)[0], rel=1e-4)
    assert pruned.fingerprint() == before


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_remembered_holds_embeddings_only_where_they_are_the_head(tied):
    kept = Divergence(T, None, 1).reference(model(tie_word_embeddings=tied), IDS)
    head = "outside.model.embed_tokens.weight" if tied else "outside.lm_head.weight"
    assert kept.keys() == {"hidden", "outside.model.norm.weight", head}
    assert kept["hidden"].shape == (WINDOWS, T, 64)


def test_a_reference_of_another_width_is_refused():
    evaluator = Divergence(T, None, 1)
    kept = evaluator.reference(Decoder(TINY.load(None).model), IDS)
    with pytest.raises(
        UserError,
        match=r"hidden states, of width 32, into this model's head, which takes width 64: expected models of one",
    ):
        evaluator.compare(model(), IDS, kept)


def test_what_is_not_finite_is_named():
    dense = model()
    with torch.no_grad():
        dense.blocks[1].module.mlp.down_proj.weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"mean hidden state on evaluation window 0 is nan.*layers.1.mlp.down_proj"):
        Divergence(T, None, 1).reference(dense, IDS)

"""A recovery lowers the divergence on text that it was not tuned on, moves nothing but survivors, and descends along the gradient
of the divergence itself, whatever the architecture.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from commands import MEASURED, SMALL, UNMEASURED, command, run
from torch.testing import assert_close

from sparsity.models import Decoder
from sparsity.predictions import POSITIONS, slope
from sparsity.recover import Distillation, NoRecovery
from sparsity.recover.distillation import _Student

NAMES = ["llama", "gpt2", "opt", "gemma2", "gpt_neox"]
TUNING = Distillation(6, 0.003, 0.2, 6, 0, False)


def halved(decoder):
    """The smaller half of every layer's weights, gone."""
    for block in decoder.blocks:
        for site in block.linears:
            weight_OI = block.layer(site).weight_OI.clone()
            block.write(site, weight_OI * (weight_OI.abs() >= weight_OI.abs().median()))


def recovered(name, recovery=TUNING, dtype=torch.float32, change=halved):
    decoder = Decoder(zoo.build(CONFIGS[name](), dtype))
    batches = [*zoo.ids(10).split(2)]
    taught = recovery.teach(decoder, batches, head=False)
    change(decoder)
    given = {site: decoder.layer(site).weight_OI.clone() for site in decoder.sites}
    return decoder, recovery.recover(decoder, survivors(decoder), batches, taught), given


def survivors(decoder):
    """A mask for every layer: what is not zero."""
    return {site: decoder.layer(site).weight_OI != 0 for site in decoder.sites}


def full_kl(dense, model, ids_BT):
    """By the definition, from all logits of both."""
    with torch.no_grad():
        log_p_BTV = dense(input_ids=ids_BT).logits[:, :-1].log_softmax(-1)
    log_q_BTV = model(input_ids=ids_BT).logits[:, :-1].log_softmax(-1)
    return (log_p_BTV.exp() * (log_p_BTV - log_q_BTV)).sum(-1).mean()


@pytest.mark.parametrize("name", NAMES)
def test_the_divergence_falls_on_text_that_was_not_tuned_on(name):
    _, found, _ = recovered(name)
    assert found.facts["held_out"] < found.facts["held_out_before"]
    assert found.facts["kl"] < found.facts["kl_before"]
    assert [row["epoch"] for row in found.rows] == [*range(len(found.rows))]
    assert [row["kl"] for row in found.rows if row["kept"]] == [found.facts["held_out"]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_slope_is_the_gradient_of_the_divergence(name, recompute):
    dense, pruned = (Decoder(zoo.build(CONFIGS[name](), torch.float64)) for _ in range(2))
    halved(pruned)
    ids_BT = zoo.ids(2)
    taught = TUNING.teach(dense, [ids_BT], head=False)
    student = _Student(pruned, survivors(pruned), [ids_BT], taught, recompute)
    with student.learning():
        assert student.divergence(range(1)) == pytest.approx(
            full_kl(dense.model, pruned.model, ids_BT).item(), rel=1e-6
        )
        student.slope(0)
        parameters = [pruned.blocks[site.block].linears[site].weight for site in pruned.sites]
        expected = torch.autograd.grad(full_kl(dense.model, pruned.model, ids_BT), parameters, allow_unused=True)
    for weight, parameter, slope_OI in zip(student.weights, parameters, expected, strict=True):
        wanted_OI = (slope_OI if slope_OI is not None else torch.zeros_like(parameter)) * (parameter != 0)
        assert_close(weight.grad, wanted_OI.float(), rtol=1e-4, atol=1e-7)


def test_the_slope_is_the_same_in_pieces():
    decoder = Decoder(zoo.build(CONFIGS["llama"](), torch.float64))
    ids_BT = zoo.ids(1, POSITIONS + 7)
    dense_BTI = next(decoder.hidden_of([ids_BT]))
    pruned_BTI = (dense_BTI * 1.1).requires_grad_()
    log_p_BTV = decoder.head(ids_BT, dense_BTI)[:, :-1].log_softmax(-1)
    log_q_BTV = decoder.head(ids_BT, pruned_BTI)[:, :-1].log_softmax(-1)
    (log_p_BTV.exp() * (log_p_BTV - log_q_BTV)).sum(-1).mean().backward()
    assert_close(slope(decoder, ids_BT, dense_BTI, pruned_BTI.detach()), pruned_BTI.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_survivors_move(name, dtype):
    dense = Decoder(zoo.build(CONFIGS[name](), dtype))
    decoder, found, given = recovered(name, dtype=dtype)
    moved = total = 0
    for site, given_OI in given.items():
        weight_OI = decoder.layer(site).weight_OI
        assert weight_OI.dtype == dtype
        assert weight_OI[given_OI == 0].eq(0).all(), site.name
        moved += int((weight_OI != given_OI).sum())
        total += int(given_OI.count_nonzero())
    assert found.facts["kept_epoch"] >= 1
    assert moved > 0.5 * total
    layers = {f"{site.name}.weight" for site in given}
    before = dense.model.state_dict()
    assert all(key in layers or torch.equal(tensor, before[key]) for key, tensor in decoder.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in decoder.model.parameters())


def test_the_dense_model_has_nothing_to_gain():
    decoder, found, _ = recovered("llama", change=lambda decoder: None)
    assert decoder.fingerprint() == Decoder(zoo.build(CONFIGS["llama"]())).fingerprint()
    assert found.facts["kept_epoch"] == 0
    assert found.facts["kl"] == pytest.approx(0, abs=1e-9)


def test_activations_computed_again_are_the_same():
    a, b = recovered("llama"), recovered("llama", Distillation(6, 0.003, 0.2, 6, 0, True))
    assert a[0].fingerprint() == b[0].fingerprint()
    assert a[1] == b[1]


def test_a_pruned_head_is_measured_against_the_dense_one():
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    batches = [*zoo.ids(4).split(2)]
    taught = TUNING.teach(decoder, batches, head=True)
    dense = Decoder(zoo.build(CONFIGS["llama"]()))
    (site,) = decoder.head_block.linears
    decoder.head_block.write(site, decoder.layer(site).weight_OI * 0.5)
    student = _Student(decoder, survivors(decoder), batches, taught, False)
    expected = torch.stack([full_kl(dense.model, decoder.model, ids_BT) for ids_BT in batches]).mean().item()
    assert expected > 0.001
    assert student.divergence(range(2)) == pytest.approx(expected, rel=1e-4)


# --- runs -------------------------------------------------------------------------------------------------------------

WORDS = (
    "method=wanda", "recover=distill", "calibration.batch_size=1", "recover.held_out=0.25", "recover.epochs=3", "save=true",
)  # fmt: skip


def test_a_run_says_what_was_recovered(work):
    found = run(UNMEASURED, *WORDS, into="a")
    rows = (Path("a") / "recovery.csv").read_text().splitlines()
    assert rows[0] == "epoch,kl,kept"
    assert len(rows) == 2 + found.result["recovery"]["epochs"]
    assert found.result["recovery"]["held_out"] < found.result["recovery"]["held_out_before"]
    assert found.result["seconds"]["recover"] > 0
    assert found.result["sparsity"]["found"] == pytest.approx(0.5, abs=1e-3)


def test_the_same_seed_gives_the_same_bits_also_after_a_recovery_that_was_interrupted(work, monkeypatch):
    a = run(*MEASURED, *WORDS, into="a")
    with monkeypatch.context() as patch:
        patch.setattr(_Student, "slope", interrupt)
        assert "resumes after" in command(*SMALL, *MEASURED, *WORDS, "hydra.run.dir=b").err
    b = run(*MEASURED, *WORDS, into="b")
    assert b.result["resumed"] == [2]
    assert b.result["recovery"] == a.result["recovery"]
    assert all(torch.equal(weight, b.weights[name]) for name, weight in a.weights.items())


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_sweep_recovers_every_point_from_the_dense_model(work):
    alone = run(UNMEASURED, *WORDS, "sparsity=0.6", into="a")
    ended = command("-m", *SMALL, UNMEASURED, *WORDS, "sparsity=0.5,0.6", "hydra.sweep.dir=sweep")
    assert ended.status == 0
    second = json.loads((Path("sweep") / "1" / "result.json").read_text())
    assert second["recovery"] == alone.result["recovery"]


def test_a_method_without_statistics_is_recovered_too(work):
    found = run(UNMEASURED, *WORDS, "method=magnitude", into="a")
    assert found.result["recovery"]["held_out"] < found.result["recovery"]["held_out_before"]


def test_none_reads_nothing(work):
    assert not NoRecovery().reads_text
    assert run(UNMEASURED, into="a").result["recovery"] == {}
    assert not (Path("a") / "recovery.csv").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("recover.epochs=0", "recover.epochs=0 is not valid: expected a whole number >= 1, such as 8"),
        ("recover.lr=0", "lr=0"),
        ("recover.held_out=1", "held_out=1"),
        ("calibration.batch_size=4", "leaves none to tune on"),
    ],
)
def test_mistakes_are_named(work, change, reason):
    kept = [word for word in WORDS if word.partition("=")[0] != change.partition("=")[0]]
    ended = command(*SMALL, *kept, change)
    assert ended.status == 1
    assert reason in ended.err


@pytest.mark.parametrize(("held_out", "asked"), [(0.2, [range(6, 8), range(8, 10)]), (0.0, [range(10)])])
def test_what_was_tuned_on_is_judged_by_as_much_as_was_held_out(held_out, asked):
    weight, judged = torch.zeros(1), []

    def cost(batches):
        judged.append(batches)
        return float(len(batches))

    def learn(batch):
        weight.grad = torch.ones(1)

    tuned = replace(TUNING, epochs=1, held_out=held_out).tune("kl", [weight], learn, cost, 10)
    assert [*dict.fromkeys(judged)] == asked
    assert tuned.facts["kl_before"] == tuned.facts["kl"] == len(asked[0])

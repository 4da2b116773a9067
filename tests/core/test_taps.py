"""A tap folds what its module really saw, on its side, token by token; statistics of activity against direct computation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from torch import Tensor, nn
from torch.testing import assert_close

from sparsity.core import Site, Tap, UserError
from sparsity.groupings import Documents
from sparsity.models import Decoder
from sparsity.models.blocks import Block, Linear
from sparsity.statistics import Activity, GroupedActivity
from sparsity.stream import _Fold

SEQUENCES, BATCH = 5, 2  # the last batch is a ragged one
ACTIVITY = Activity(0.1)
AT = 1


@dataclass(frozen=True)
class Parity:
    """Odd tokens and even ones; notes how often it was asked, and for what."""

    asked: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def rows(self, sequences: int, seqlen: int) -> int:
        return 2

    def labels(self, ids_BT: Tensor, embedding_VE: Tensor) -> Tensor:
        self.asked.append((ids_BT, embedding_VE))
        return ids_BT % 2


@pytest.fixture
def asked():
    Parity.asked.clear()
    return Parity.asked


DOCUMENTS, PARITY = GroupedActivity(Documents()), GroupedActivity(Parity())


def decoder(name: str) -> Decoder:
    return Decoder(zoo.build(CONFIGS[name]()))


def seen_by(model: nn.Module, name: str, side: str) -> Tensor:
    """The activations (B, T, J) of a module of the model, over the stream's batches."""
    batches: list[Tensor] = []

    def hook(_, args, output):
        batches.append(args[0] if side == "input" else output)

    handle = model.get_submodule(name).register_forward_hook(hook)
    with torch.no_grad():
        for ids_BT in zoo.ids(SEQUENCES).split(BATCH):
            model(input_ids=ids_BT, use_cache=False)
    handle.remove()
    return torch.cat([x_BTJ.flatten(0, -2) for x_BTJ in batches]).view(SEQUENCES, zoo.TOKENS, -1)


def observed(d: Decoder, taps: dict[Site, list[Tap]], batch_size: int = BATCH):
    s = zoo.stream(d, zoo.ids(SEQUENCES), batch_size=batch_size)
    for block in s.blocks[:AT]:
        s.advance(block)
    return s.observe(s.blocks[AT], taps)


def first_row(d: Decoder) -> Site:
    return next(s for s in d.blocks[AT].linears if s.role == "mlp" and s.neurons.axis == "row")


# Of block 1: the MLP's first layer, its down projection, the gate and the activation function, by hand.
MODULES = {
    "llama": ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj", "mlp.act_fn"),
    "phi3": ("mlp.gate_up_proj", "mlp.down_proj", "mlp.gate_up_proj", "mlp.activation_fn"),
    "opt": ("fc1", "fc2", "fc1", "activation_fn"),  # all tokens in one row
    "gpt2": ("mlp.c_fc", "mlp.c_proj", "mlp.c_fc", "mlp.act"),
}


@pytest.mark.parametrize("name", MODULES)
def test_taps_fold_what_the_models_own_modules_see(name):
    d = decoder(name)
    block = d.blocks[AT].name
    own, down, gate, activation = (f"{block}.{path}" for path in MODULES[name])
    site = next(site for site in d.blocks[AT].linears if site.name == own)
    sources = [(own, "input"), (own, "output"), (down, "input"), (down, "output"), (gate, "output")]
    sources += [(activation, "input"), (activation, "output")]
    taps = {
        (statistic, source): Tap(statistic, *source)
        for statistic in (ACTIVITY, DOCUMENTS, PARITY)
        for source in sources
    }
    taps[ACTIVITY, (own, "input")] = Tap(ACTIVITY)  # of the layer itself
    taps[DOCUMENTS, (own, "output")] = Tap(DOCUMENTS, side="output")
    found = observed(d, {site: list(taps.values())})[site]
    odd_BT = zoo.ids(SEQUENCES) % 2
    for source in sources:
        x_BTJ = seen_by(d.model, *source).double().abs()
        activity = found[taps[ACTIVITY, source]]
        assert activity.tokens == SEQUENCES * zoo.TOKENS
        assert_close(activity.total_J, x_BTJ.sum((0, 1)), rtol=1e-6, atol=1e-6)
        assert activity.active_J.tolist() == (x_BTJ > 0.1).sum((0, 1)).tolist()
        documents = found[taps[DOCUMENTS, source]]
        assert documents.tokens_R.tolist() == [zoo.TOKENS] * SEQUENCES
        assert_close(documents.mean_RJ, x_BTJ.mean(1), rtol=1e-5, atol=1e-6)
        parity = found[taps[PARITY, source]]
        for r in (0, 1):
            assert_close(parity.total_RJ[r], x_BTJ[odd_BT == r].sum(0), rtol=1e-5, atol=1e-5)
            assert parity.tokens_R[r] == (odd_BT == r).sum()


def test_layers_that_tap_one_module_share_one_fold():
    added = []

    class Counting(Activity):
        def add(self, state, x_BTI, labels_BT=None):
            added.append(x_BTI)
            return super().add(state, x_BTI)

    d = decoder("llama")
    sites = [site for site in d.blocks[AT].linears if site.role == "mlp"]
    hidden = {site: Tap(Counting(0.1), site.neurons.module, site.neurons.side) for site in sites}
    stats = observed(d, {site: [tap] for site, tap in hidden.items()})
    assert len({id(stats[site].folded[hidden[site]]) for site in sites}) == 1 < len(sites) == 3
    assert len(added) == 3  # batches
    # the down projection's own input is the same tensor, its output is not
    down = sites[2]
    mixed = {sites[0]: [hidden[sites[0]]], down: [Tap(Counting(0.1)), Tap(Counting(0.1), side="output")]}
    stats = observed(d, mixed)
    folded = [stats[site].folded[tap] for site, taps in mixed.items() for tap in taps]
    assert folded[0] is folded[1] is not folded[2]


def test_a_state_that_was_not_asked_for_cannot_be_read():
    d = decoder("llama")
    site = first_row(d)
    stats = observed(d, {site: [Tap(ACTIVITY, site.neurons.module)]})[site]
    with pytest.raises(KeyError, match=r"which needs\(\) did not declare; declared: .*mlp.down_proj input"):
        stats[Tap(ACTIVITY, site.neurons.module, "output")]


def test_labels_are_made_once_of_the_whole_text(asked):
    d, ids_BT = decoder("llama"), zoo.ids(SEQUENCES)
    s = zoo.stream(d, ids_BT)
    for block in s.blocks:
        s.observe(block, {site: [Tap(PARITY)] for site in block.linears})
        s.advance(block)
    (text_BT, embedding_VE), *again = asked
    assert not again
    assert torch.equal(text_BT, ids_BT)
    assert embedding_VE.data_ptr() == d.model.get_input_embeddings().weight.data_ptr()


def test_no_labels_are_made_where_none_are_needed(asked):
    d = decoder("llama")
    observed(d, {site: [Tap(ACTIVITY)] for site in d.blocks[AT].linears})
    assert not asked


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("statistic", [ACTIVITY, DOCUMENTS, PARITY], ids=str)
def test_the_batch_size_does_not_change_them(statistic, batch_size):
    d = decoder("opt")
    site = first_row(d)
    tap = Tap(statistic, site.neurons.module)
    one, other = (observed(d, {site: [tap]}, size)[site][tap] for size in (BATCH, batch_size))
    assert_close(other[0], one[0], rtol=1e-5, atol=1e-5)
    assert_close(other[1].double(), one[1].double())  # counts
    assert one.tokens == other.tokens


# --- tokens that cannot be told apart -----------------------------------------------------------------------------


def folded(x_BTI: Tensor, shape: tuple[int, int], *, times: int = 1):
    """The state per document of a layer `expert` that saw this tensor in a batch of that shape."""
    module = nn.ModuleDict({"expert": nn.Linear(x_BTI.shape[-1], 2)})
    site, tap = Site(0, "block.expert", "mlp"), Tap(DOCUMENTS)
    fold = _Fold(Block(0, "block", module, {site: Linear(module["expert"], False)}), {site: [tap]})
    fold.seen = {("block.expert", "input"): [x_BTI] * times}
    labels_BT = torch.arange(shape[0])[:, None].expand(shape)
    fold.batch(shape, {Documents(): (shape[0], labels_BT)})
    return fold.stats()[site][tap]


@pytest.mark.parametrize("tokens", [5, 7])
def test_a_layer_that_sees_some_of_the_tokens_is_refused_by_name(tokens):
    with pytest.raises(UserError, match=rf"block\.expert sees {tokens} of a batch's 6 tokens.*scope\.skip"):
        folded(torch.ones(1, tokens, 4), (2, 3))


def test_tokens_in_one_row_are_those_of_the_sequences_in_turn():
    x_BTI = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for flat in (x_BTI, x_BTI.flatten(0, 1), x_BTI.flatten(0, 1)[None]):
        state = folded(flat, (2, 3))
        assert_close(state.mean_RJ, x_BTI.abs().mean(1).double())
    assert_close(folded(x_BTI, (2, 3), times=2).tokens_R, torch.tensor([6, 6]))


# --- fold and merge -----------------------------------------------------------------------------------------------


def fold(statistic, x_BTI: Tensor, labels_BT: Tensor):
    return statistic.add(statistic.zero(x_BTI, 3), x_BTI, labels_BT if statistic.grouping else None)


def same(a, b) -> None:
    assert type(a) is type(b)
    for one, other in zip(a, b, strict=True):
        assert_close(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.parametrize("statistic", [ACTIVITY, DOCUMENTS], ids=str)
def test_folds_merge(statistic):
    generator = torch.Generator().manual_seed(0)
    x_BTI = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    labels_BT = torch.randint(3, (4, 6), generator=generator)
    whole = fold(statistic, x_BTI, labels_BT)
    a, b = fold(statistic, x_BTI[:1], labels_BT[:1]), fold(statistic, x_BTI[1:], labels_BT[1:])
    before = [torch.as_tensor(part).clone() for part in (*a, *b)]
    same(statistic.merge(a, b), whole)
    same(statistic.merge(b, a), whole)
    for part, copy in zip((*a, *b), before, strict=True):
        assert torch.equal(torch.as_tensor(part), copy)  # merging writes into neither
    nothing = statistic.zero(x_BTI, 3)
    same(statistic.merge(nothing, whole), whole)
    same(statistic.add(a, x_BTI[1:], labels_BT[1:] if statistic.grouping else None), whole)


@pytest.mark.parametrize("statistic", [ACTIVITY, DOCUMENTS], ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_noticed(statistic, bad):
    x_BTI = torch.ones(2, 3, 4)
    labels_BT = torch.zeros(2, 3, dtype=torch.long)
    assert statistic.finite(fold(statistic, x_BTI, labels_BT))
    x_BTI[1, 2, 0] = bad
    assert not statistic.finite(fold(statistic, x_BTI, labels_BT))


def test_bfloat16_is_summed_without_losing_small_numbers():
    """256 + 1 is 256 in bfloat16."""
    x_BTI = torch.ones(1, 3000, 1, dtype=torch.bfloat16)
    assert Activity(0.5).add(Activity(0.5).zero(x_BTI), x_BTI).total_J.item() == 3000
    labels_BT = torch.zeros(1, 3000, dtype=torch.long)
    assert fold(DOCUMENTS, x_BTI, labels_BT).total_RJ[0].item() == 3000

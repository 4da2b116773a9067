"""Topics: one reproducible clustering of the whole text that tells planted topics apart and depends on no layer."""

from __future__ import annotations

import logging

import architectures as zoo
import pytest
import torch
from architectures import CONFIGS
from torch import Tensor

from sparsity.core import Tap
from sparsity.correctors import NoCorrection
from sparsity.engine import plan, prune
from sparsity.groupings import Documents, Topics
from sparsity.methods import Magnitude, NeuronRank, TfIdf
from sparsity.models import Decoder
from sparsity.patterns import Unstructured
from sparsity.statistics import GroupedActivity

V, E = 60, 16
GENERATOR = torch.Generator().manual_seed(0)
EMBEDDING_VE = torch.randn(V, E, generator=GENERATOR)
IDS_BT = torch.randint(V, (6, 40), generator=GENERATOR)


def same_partition(a: Tensor, b: Tensor) -> bool:
    """True if two labellings give the same groups; the numbers of the groups may differ."""
    a, b = a.flatten(), b.flatten()
    return torch.equal(a[:, None] == a, b[:, None] == b)


def planted(words: int = 3, window: int = 8, width: int = E) -> tuple[Tensor, Tensor, Tensor]:
    """Windows that draw all their tokens from one of `words` vocabularies: ids, embeddings with a common part, and which."""
    generator = torch.Generator().manual_seed(1)
    truth_BW = torch.stack([torch.randperm(words, generator=generator) for _ in range(5)])
    truth_BT = truth_BW.repeat_interleave(window, dim=1)
    ids_BT = 20 * truth_BT + torch.randint(20, truth_BT.shape, generator=generator)
    centre = torch.randn(words, width, generator=generator).repeat_interleave(20, dim=0)
    noise = 0.5 * torch.randn(20 * words, width, generator=generator)
    return ids_BT, 10 + centre + noise, truth_BT


@pytest.mark.parametrize("width", [16, 300])  # 300 are projected
@pytest.mark.parametrize("words", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_topics_are_told_apart(words, width, seed):
    ids_BT, embedding_VE, truth_BT = planted(words, width=width)
    topic_BT = Topics(words, 8, seed).labels(ids_BT, embedding_VE)
    assert same_partition(topic_BT, truth_BT)


def test_what_all_windows_share_and_how_large_they_are_says_nothing():
    ids_BT, embedding_VE, truth_BT = planted()
    for harmless in (embedding_VE + 1000, 1e-3 * embedding_VE, embedding_VE.bfloat16()):
        assert same_partition(Topics(3, 8, 0).labels(ids_BT, harmless), truth_BT)


def test_what_differs_along_the_direction_that_all_share_is_told_apart():
    """Angles from the origin would not tell long windows from short ones: they are taken from the mean of all."""
    ids_BT, _, truth_BT = planted(2)
    noise = torch.randn(40, E, generator=torch.Generator().manual_seed(2))
    embedding_VE = (1 + torch.arange(40) // 20)[:, None] + 0.1 * noise
    assert same_partition(Topics(2, 8, 0).labels(ids_BT, embedding_VE), truth_BT)


def test_the_seed_is_all_that_is_drawn():
    found = []
    with torch.random.fork_rng(devices=[]):
        for state in (0, 1):
            torch.manual_seed(state)
            found.append(Topics(5, 4, 3).labels(IDS_BT, EMBEDDING_VE))
    assert torch.equal(*found)
    others = [Topics(5, 4, seed).labels(IDS_BT, EMBEDDING_VE) for seed in range(4, 8)]
    assert not all(same_partition(found[0], other) for other in others)


@pytest.mark.parametrize("window", [1, 7, 8, 40, 100])  # 7 leaves a shorter one; 100 is longer than a sequence
def test_a_window_has_one_topic_and_none_crosses_a_sequence(window):
    topic_BT = Topics(4, window, 0).labels(IDS_BT, EMBEDDING_VE)
    assert topic_BT.shape == IDS_BT.shape
    assert topic_BT.dtype == torch.int64
    for topic_BW in topic_BT.split(window, dim=1):
        assert (topic_BW == topic_BW[:, :1]).all()
    # what one window says is the mean of its own tokens: permuting them changes nothing
    shuffled_BT = torch.cat([ids_BW.flip(1) for ids_BW in IDS_BT.split(window, dim=1)], dim=1)
    assert torch.equal(Topics(4, window, 0).labels(shuffled_BT, EMBEDDING_VE), topic_BT)


def test_the_last_shorter_window_is_a_window_of_its_own_tokens():
    """Sequences of 8 + 8 + 2 tokens whose last two are of another vocabulary."""
    ids_BT, embedding_VE, _ = planted(2)
    short_BT = torch.cat([ids_BT, torch.full((5, 2), 3)], dim=1)  # 3 is of the first vocabulary
    topic_BT = Topics(2, 8, 0).labels(short_BT, embedding_VE)
    assert same_partition(topic_BT, (short_BT >= 20).long())


def test_there_are_no_more_topics_than_windows(caplog):
    caplog.set_level(logging.INFO, "sparsity")
    topics = Topics(64, 8, 0)
    assert topics.rows(6, 40) == topics.rows(3, 73) == 30
    assert topics.rows(100, 40) == 64
    topic_BT = topics.labels(IDS_BT, EMBEDDING_VE)
    assert topic_BT.unique().tolist() == list(range(30))  # each window its own
    assert [record.getMessage() for record in caplog.records] == ["topics: 64 asked, 30 windows of 8 tokens: 30 topics"]
    caplog.clear()
    Topics(30, 8, 0).labels(IDS_BT, EMBEDDING_VE)
    assert not caplog.records


def test_empty_topics_are_dropped(caplog):
    """Two distinct windows cannot make five topics."""
    caplog.set_level(logging.INFO, "sparsity")
    ids_BT = torch.tensor([[3] * 8 + [4] * 8] * 4)
    topic_BT = Topics(5, 4, 0).labels(ids_BT, EMBEDDING_VE)
    assert same_partition(topic_BT, ids_BT)
    assert topic_BT.unique().tolist() == [0, 1]
    assert "topics: 3 of 5 are empty and dropped" in caplog.text


@pytest.mark.parametrize("num_topics", [1, 2, 5, 17])
def test_labels_have_no_gaps(num_topics):
    topic_BT = Topics(num_topics, 8, 0).labels(IDS_BT, EMBEDDING_VE)
    assert topic_BT.unique().tolist() == list(range(num_topics))


def test_a_document_is_a_sequence():
    labels_BT = Documents().labels(IDS_BT, EMBEDDING_VE)
    assert labels_BT.shape == IDS_BT.shape
    assert all(labels_BT[b].unique().tolist() == [b] for b in range(6))
    assert Documents().rows(6, 40) == 6


def test_topics_are_the_same_in_every_block_whatever_was_pruned():
    """The rows of the statistic hold the tokens that the topics of the text alone say, in a model that is being pruned."""
    decoder = Decoder(zoo.build(CONFIGS["llama"]()))
    expected_BT = Topics(4, 8, 0).labels(zoo.ids(), decoder.embedding_VE.clone())
    method = NeuronRank(Magnitude("layer"), 1.0, TfIdf(1.0, 1.0, 1.5, 0.0, 0.6, True, 4, 8, "hidden", 0))
    s, tokens = zoo.stream(decoder), []
    observe = s.observe

    def spy(block, needs):
        stats = observe(block, needs)
        for site, known in stats.items():
            tap = Tap(GroupedActivity(Topics(4, 8, 0)), site.neurons.module, site.neurons.side)
            tokens.append(known[tap].tokens_R.tolist())
        return stats

    s.observe = spy
    list(prune(s, plan(decoder, method, Unstructured(0.5), NoCorrection())))
    assert len(tokens) == len(decoder.sites)
    assert all(found == expected_BT.flatten().bincount().tolist() for found in tokens)

"""Shared spans: what a search token by token finds, whatever the hashes say."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsity.datasets import overlap
from sparsity.datasets.overlap import shared_tokens


def searched(calibration_BT, evaluation_N, span):
    there = {tuple(evaluation_N[i : i + span].tolist()) for i in range(len(evaluation_N) - span + 1)}
    covered = set()
    for b, sequence in enumerate(calibration_BT.tolist()):
        for s in range(len(sequence) - span + 1):
            if tuple(sequence[s : s + span]) in there:
                covered |= {(b, t) for t in range(s, s + span)}
    return len(covered)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 4))
def test_it_finds_what_a_plain_search_finds(seed, span, words):
    g = torch.Generator().manual_seed(seed)
    calibration_BT, evaluation_N = torch.randint(words, (3, 12), generator=g), torch.randint(words, (20,), generator=g)
    assert shared_tokens(calibration_BT, evaluation_N, span) == searched(calibration_BT, evaluation_N, span)


def test_equal_hashes_of_other_tokens_are_no_overlap(monkeypatch):
    g = torch.Generator().manual_seed(0)
    calibration_BT, evaluation_N = torch.randint(5, (2, 30), generator=g), torch.randint(5, (90,), generator=g)
    expected = searched(calibration_BT, evaluation_N, 3)
    assert 0 < expected < 60
    monkeypatch.setattr(overlap, "_hashes", lambda ids, span: torch.zeros(len(ids), ids.shape[1] - span + 1).long())
    assert shared_tokens(calibration_BT, evaluation_N, 3) == expected


def test_texts_shorter_than_a_span_share_none():
    ids_N = torch.arange(30)
    assert shared_tokens(ids_N[None], ids_N) == 0
    assert shared_tokens(torch.arange(90)[None], ids_N) == 0
    assert shared_tokens(torch.arange(90)[None], torch.arange(100)) == 90

"""Token sequences: a text is tokenised whole, drawn from at random for calibration and cut into windows for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sparsity.core import UserError
from sparsity.datasets import sample, tokenise, windows

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs"]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Words to numbers, behind a first token, as Llama's does."""
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["<s>", "<unk>", *WORDS])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    backend.enable_truncation(4)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", model_max_length=8)


def test_tokenise_is_one_call_without_truncation(tokenizer: PreTrainedTokenizerFast) -> None:
    ids_N = tokenise(" ".join(WORDS * 5), tokenizer)
    assert ids_N.dtype == torch.int64
    assert ids_N.tolist() == [0, *list(range(2, 10)) * 5]


def test_tokenise_warns_of_nothing_and_silences_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    heard: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(listener)
    try:
        tokenise(" ".join(WORDS * 5), tokenizer)
        assert heard == []
        tokenizer(" ".join(WORDS * 5))
        assert len(heard) == 1
    finally:
        logger.removeHandler(listener)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_sample_is_a_function_of_the_generator() -> None:
    ids_N = torch.arange(1000)
    ids_BT = sample(ids_N, 8, 16, seeded(0))
    assert ids_BT.shape == (8, 16)
    assert torch.equal(ids_BT, sample(ids_N, 8, 16, seeded(0)))
    assert not torch.equal(ids_BT, sample(ids_N, 8, 16, seeded(1)))
    generator = seeded(0)
    assert not torch.equal(sample(ids_N, 8, 16, generator), sample(ids_N, 8, 16, generator))
    before = torch.get_rng_state()
    sample(ids_N, 8, 16, generator)
    assert torch.equal(before, torch.get_rng_state())


def test_a_sample_is_consecutive_and_every_start_is_reached() -> None:
    ids_N = torch.arange(6)  # exactly 2 sequences of 3
    generator = seeded(0)
    drawn = [sample(ids_N, 2, 3, generator) for _ in range(100)]
    assert all(ids_BT.diff(dim=1).eq(1).all() for ids_BT in drawn)
    starts = torch.cat(drawn)[:, 0]
    assert starts.bincount().tolist() == pytest.approx([50] * 4, abs=25)  # 200 draws of 4 starts: 4 standard deviations
    assert sample(ids_N, 1, 6, generator).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_sample_does_not_alias_the_text() -> None:
    ids_N = torch.arange(6)
    sample(ids_N, 1, 6, seeded(0)).zero_()
    assert torch.equal(ids_N, torch.arange(6))


@pytest.mark.parametrize("length,seqlen,limit,found", [(12, 4, None, 3), (15, 4, None, 3), (15, 4, 2, 2), (4, 4, 1, 1)])
def test_windows_joined_are_a_prefix(length: int, seqlen: int, limit: int | None, found: int) -> None:
    ids_N = torch.arange(length)
    ids_BT = windows(ids_N, seqlen, limit)
    assert ids_BT.shape == (found, seqlen)
    assert torch.equal(ids_BT.flatten(), ids_N[: found * seqlen])


@pytest.mark.parametrize(
    "cut,message",
    [
        (
            lambda ids_N: sample(ids_N, 3, 4, seeded(0)),
            r"has 11 tokens\. Expected at least 3 sequences x 4 tokens = 12\. Ask",
        ),
        (lambda ids_N: sample(ids_N, 0, 4, seeded(0)), r"num_sequences is 0\. Expected at least 1"),
        (lambda ids_N: sample(ids_N, 2, 0, seeded(0)), r"seqlen is 0\. Expected at least 1"),
        (
            lambda ids_N: windows(ids_N, 12, None),
            r"has 11 tokens, which are 0 windows of 12\. Expected at least 1\. Ask",
        ),
        (lambda ids_N: windows(ids_N, 4, 3), r"has 11 tokens, which are 2 windows of 4\. Expected at least 3\. Ask"),
        (lambda ids_N: windows(ids_N, 4, 0), r"limit is 0\. Expected at least 1"),
        (lambda ids_N: windows(ids_N, 0, None), r"seqlen is 0\. Expected at least 1"),
    ],
)
def test_too_little_text_is_refused(cut: Callable[[torch.Tensor], torch.Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cut(torch.arange(11))

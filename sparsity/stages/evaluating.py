"""The evaluations of one run: the dense model's answers, remembered between runs, and the pruned model's beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..cache import Cache, content_hash
from ..core import Evaluator, Measured, Model, UserError
from ..evaluation import Walked
from ..models import Decoder, Itself, Loaded, ModelSource
from ..record.folders import stamps
from .key import reference_key
from .loading import Dense

Evaluators = Mapping[str, Evaluator]
References = Mapping[str, Mapping[str, Tensor]]


def referred(source: ModelSource | Itself, loaded: Loaded, dtype: torch.dtype | None) -> Loaded | None:
    """The other model to compare with, if one is named. Raises `UserError` unless it reads the same tokens."""
    if isinstance(source, Itself):
        return None
    other = source.load(dtype)
    if other.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        raise UserError(
            f"reference={other.name} has another vocabulary than {loaded.name}: expected the model that it was made from, or "
            f"one with the same tokenizer, since windows and answers are compared token by token. Name another reference"
        )
    return other


def references(evaluators: Evaluators, dense: Dense, ids_N: Tensor, device: torch.device, cache: Cache) -> References:
    """What the dense model answers to each evaluator, filed under all that can change a bit of it."""
    if not evaluators:
        return {}
    decoder = dense.decoder
    known = {
        "model": dense.fingerprint,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    text = hashlib.sha256(ids_N.numpy().tobytes()).hexdigest()
    tokenizer = decoder.tokenizer and tokenizer_hash(decoder.tokenizer)

    def answer(evaluator: Evaluator) -> Mapping[str, Tensor]:
        with decoder.on(device):
            return evaluator.reference(seen(decoder), ids_N)

    found: dict[str, Mapping[str, Tensor]] = {}
    for name, evaluator in evaluators.items():
        its = {"evaluator": repr(evaluator), "files": stamps(evaluator.files()), **reference_key(evaluator)}
        content = known | its | ({"text": text} if evaluator.reads_text else {"tokenizer": tokenizer})
        ask = partial(answer, evaluator)
        found[name] = cache.remembered(content, ask) if evaluator.remembers else ask()
    return found


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over what decides how a text, or a message, becomes ids: for evaluators whose text is not the dataset's."""
    engine = getattr(tokenizer, "backend_tokenizer", None)  # of a fast tokenizer: all of it, as JSON
    vocabulary = engine.to_str() if engine is not None else sorted(tokenizer.get_vocab().items())
    return content_hash([vocabulary, tokenizer.special_tokens_map, tokenizer.chat_template])


def compare(
    evaluators: Evaluators, decoder: Decoder, ids_N: Tensor, device: torch.device, dense: References
) -> dict[str, Measured]:
    """What each evaluator finds of the pruned model."""
    with decoder.on(device):
        return {name: evaluator.compare(seen(decoder), ids_N, dense[name]) for name, evaluator in evaluators.items()}


def seen(decoder: Decoder) -> Model:
    """The model as evaluators see it."""
    return Walked(decoder) if decoder.files else decoder

"""The model that is made on the spot: the same bits everywhere, and a tokenizer that loses nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from checkpoints import TINY, same, save, tied

from sparsity.core import UserError
from sparsity.models import Local, Tiny

pytestmark = pytest.mark.usefixtures("no_network")


def test_tiny_is_the_same_each_time_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = TINY.load(None)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, TINY.load(None))
    assert not same(first, Tiny(seed=1, hidden_size=32, num_blocks=2, tie_word_embeddings=True).load(None))
    digest = hashlib.sha256(b"".join(p.numpy().tobytes() for p in first.model.parameters())).hexdigest()
    assert digest[:16] == "8f8baa49ed3e62e7"  # the same bits everywhere, with any transformers


def test_tiny_is_at_rest_and_has_the_shapes_it_was_asked_for() -> None:
    loaded = Tiny(seed=0, hidden_size=64, num_blocks=3, tie_word_embeddings=False).load(None)
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.model.config.use_cache
    assert not tied(loaded)
    assert tied(TINY.load(None))
    linears = [m for m in loaded.model.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linears) == 3 * 7
    assert all(linear.in_features % 8 == 0 for linear in linears)


def test_tiny_in_bfloat16_is_tiny_rounded() -> None:
    exact, rounded = TINY.load(None).model, TINY.load(torch.bfloat16).model
    assert rounded.dtype == torch.bfloat16
    for (name, a), b in zip(exact.named_parameters(), rounded.parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16), b), name
    # The rotary table stays in float32, as it does in a checkpoint that is loaded in bfloat16.
    assert all(buffer.dtype == torch.float32 for buffer in rounded.buffers())


def test_the_byte_tokenizer_loses_nothing_and_adds_nothing(tmp_path: Path) -> None:
    loaded = TINY.load(None)
    text = "Größe 2,5 €\r\n\tनमस्ते 🙂 <|im_end|>"
    ids = loaded.tokenizer(text).input_ids
    assert len(ids) == len(text.removesuffix("<|im_end|>").encode()) + 1
    assert loaded.tokenizer.decode(ids) == text
    assert max(ids) < loaded.model.config.vocab_size == len(loaded.tokenizer)
    assert ids[-1] == loaded.tokenizer.eos_token_id == loaded.model.config.eos_token_id
    again = Local(str(save(loaded, tmp_path)), stream=False).load(None).tokenizer
    assert again(text).input_ids == ids
    chat = [{"role": "user", "content": "Hi"}]
    assert again.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nHi<|im_end|>\n"


@pytest.mark.parametrize(
    ("hidden_size", "num_blocks", "says"), [(20, 2, "hidden_size=20"), (0, 2, "=0"), (32, 0, "num_blocks=0")]
)
def test_tiny_refuses_sizes_that_do_not_fit(hidden_size: int, num_blocks: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Tiny(0, hidden_size, num_blocks, True).check()

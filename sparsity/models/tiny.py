"""A random Llama with a few blocks and a byte tokenizer: the real architecture at the size of a test, without any file.

Every weight is drawn from one generator with variance 1 / fan-in. So the blocks are not negligible beside the residual stream, and
the weights depend only on this file and the seed. The sizes are multiples of 8, so patterns such as 2:4 and 4:8 fit every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch

from sparsity.models.source import Loaded
from sparsity.ranges import Range, Seed, checked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
@checked
class Tiny:
    """A model source that draws a small random Llama."""

    stream: ClassVar[bool] = False  # there is no file to stream from

    seed: Seed
    hidden_size: Annotated[int, Range(least=8, multiple=8, cap=2**14, such=64)]
    num_blocks: Annotated[int, Range(least=1, cap=1000, such=2)]
    tie_word_embeddings: bool

    def check(self) -> None:
        """Nothing but its numbers can be wrong with it."""

    def files(self) -> list[Path]:
        return []

    def load(self, dtype: torch.dtype | None) -> Loaded:
        model = self._model(dtype or torch.float32)
        return Loaded(model, tokenizer(), "tiny", {"source": "tiny", "recipe": repr(self)})

    def _model(self, dtype: torch.dtype) -> PreTrainedModel:
        from transformers import AutoModelForCausalLM, LlamaConfig  # it takes seconds

        start, stop = (SPECIAL.index(token) for token in ("<|im_start|>", "<|im_end|>"))
        config = LlamaConfig(
            vocab_size=len(SPECIAL) + 256,
            hidden_size=self.hidden_size,
            intermediate_size=2 * self.hidden_size,
            num_hidden_layers=self.num_blocks,
            num_attention_heads=4,
            num_key_value_heads=2,  # k and v are narrower than q, as in most current models
            max_position_embeddings=2048,
            tie_word_embeddings=self.tie_word_embeddings,
            bos_token_id=start,
            eos_token_id=stop,
            pad_token_id=stop,
        )
        with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator, which must not change
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for parameter in model.parameters():  # a tied head appears once
                if parameter.dim() == 2:  # the weights of norms stay one
                    # Uniform numbers are made of integers only, so they have the same bits on every processor. Variance 1/12.
                    noise = torch.rand(parameter.shape, generator=generator) - 0.5
                    parameter.copy_(noise * (12 / parameter.shape[1]) ** 0.5)
        return model.eval().requires_grad_(False)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte and three special ones; no token is added to a text, as with SmolLM2."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    letters = (*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    engine = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=engine,
        unk_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=CHAT,
    )

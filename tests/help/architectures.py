"""Random tiny models of every architecture that must work: the real thing, small. No network, milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from sparsity.models import Decoder
from sparsity.stream import BlockStream

VOCAB, TOKENS = 96, 24
WINDOW = 8  # sliding windows are shorter than the sequences

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA3 = ["sliding_attention", "full_attention", "sliding_attention"]  # each kind with rotary tables of its own
LLAMA = SIZES | {"intermediate_size": 64, "num_key_value_heads": 2}

CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**LLAMA),
    "mistral": lambda: MistralConfig(**LLAMA, sliding_window=WINDOW),
    "qwen2": lambda: Qwen2Config(**LLAMA, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "qwen3": lambda: Qwen3Config(
        **LLAMA, head_dim=8, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1
    ),
    "gemma2": lambda: Gemma2Config(**LLAMA, head_dim=8, sliding_window=WINDOW),
    "phi3": lambda: Phi3Config(**LLAMA),
    "opt": lambda: OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=16),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES, intermediate_size=64),
    "gemma": lambda: GemmaConfig(**LLAMA, head_dim=8),
    "gemma3": lambda: Gemma3TextConfig(**LLAMA, head_dim=8, sliding_window=WINDOW, layer_types=GEMMA3),
    "phi": lambda: PhiConfig(**LLAMA),
    "falcon": lambda: FalconConfig(**SIZES, alibi=True, multi_query=False, new_decoder_architecture=False),
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=3, n_head=4),
    "mpt": lambda: MptConfig(vocab_size=VOCAB, d_model=32, n_heads=4, n_layers=3, max_seq_len=64),
}
LINEARS = {"llama": 7, "mistral": 7, "qwen2": 7, "qwen3": 7, "gemma2": 7, "phi3": 4, "opt": 6, "gpt2": 4, "gpt_neox": 4}
LINEARS |= {"gemma": 7, "gemma3": 7, "phi": 6, "falcon": 4, "bloom": 4, "mpt": 4}


def mixtral() -> PretrainedConfig:
    return MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2)


def build(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Give all parameters fixed random values, large enough that blocks matter, also biases and norms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Auto.from_config(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype)


def ids(sequences: int = 5, tokens: int = TOKENS) -> torch.Tensor:
    return torch.randint(3, VOCAB, (sequences, tokens), generator=torch.Generator().manual_seed(1))


def stream(
    decoder: Decoder, ids_BT: torch.Tensor | None = None, propagate: str = "pruned", batch_size: int = 2
) -> BlockStream:
    """The blocks of a decoder, with text in front of them, on the CPU."""
    ids_BT = ids() if ids_BT is None else ids_BT
    return BlockStream(decoder, ids_BT, batch_size=batch_size, propagate=propagate, device=torch.device("cpu"))

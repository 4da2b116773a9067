"""A model built from its configuration alone. Parameters have shape and dtype but no values and no memory (`meta` device).

Buffers that no checkpoint holds, such as rotary frequencies, have values: transformers computes them as when it loads a checkpoint.
"""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


def skeleton(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model of this configuration, with parameters in `dtype` on the `meta` device."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    for name, buffer in [*model.named_non_persistent_buffers()]:
        parent, _, leaf = name.rpartition(".")
        model.get_submodule(parent)._buffers[leaf] = torch.empty_like(buffer, device="cpu")
    model.initialize_weights()  # fills the buffers; parameters on `meta` stay empty
    return model.eval().requires_grad_(False)

"""A model of its configuration alone: every parameter has its shape and dtype and takes no memory (torch's `meta` device).

What no checkpoint holds, such as rotary frequencies, is there: transformers computes it as it does when it loads one.
"""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


def skeleton(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    for name, buffer in [*model.named_non_persistent_buffers()]:
        parent, _, leaf = name.rpartition(".")
        model.get_submodule(parent)._buffers[leaf] = torch.empty_like(buffer, device="cpu")
    model.initialize_weights()  # fills these buffers; what is on `meta` cannot be filled
    return model.eval().requires_grad_(False)

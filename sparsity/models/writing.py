"""Calibration text of unlimited length, sampled from the model itself (arXiv 2305.17888)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AT_ONCE = 16  # sequences written together; their keys and values are held in memory


@torch.no_grad()
def written(model: PreTrainedModel, prompts_BP: Tensor, seqlen: int, generator: torch.Generator) -> Tensor:
    """Sequences (B, T) on the CPU that begin with the prompts (B, P). Each further token is drawn from the model's prediction.

    End-of-text tokens are never drawn. `generator` is on the CPU, so that the draws are the same on every device.
    """
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    found = []
    for ids_BT in prompts_BP.split(AT_ONCE):
        passed, new_BT = None, ids_BT
        while ids_BT.shape[1] < seqlen:
            output = model(input_ids=new_BT.to(model.device), past_key_values=passed, use_cache=True)
            passed, p_BV = output.past_key_values, output.logits[:, -1].float().softmax(-1).cpu()
            p_BV[:, ends] = 0
            new_BT = torch.multinomial(p_BV, 1, generator=generator)
            ids_BT = torch.cat([ids_BT, new_BT], 1)
        found.append(ids_BT)
    return torch.cat(found)

"""Documents: every calibration sequence is one document. Row b holds the tokens of sequence b."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """The grouping by sequence."""

    def rows(self, sequences: int, seqlen: int) -> int:
        return sequences

    def labels(self, ids_BT: Tensor, embedding_VE: Tensor) -> Tensor:
        return torch.arange(len(ids_BT))[:, None].expand(ids_BT.shape)

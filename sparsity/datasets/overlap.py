"""The number of calibration tokens that also occur in the evaluation text, in spans of `span` tokens.

Spans that occur in both texts are found by their hash and then compared token by token, so a hash collision is never counted.
O(N span) time.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPAN = 50  # tokens: longer than quotations and common phrases


def shared_tokens(calibration_BT: Tensor, evaluation_N: Tensor, span: int = SPAN) -> int:
    """The number of calibration tokens that lie in a span which the evaluation text also holds.

    Each position of each sequence counts once. 0 if one of the texts is shorter than a span.
    """
    if calibration_BT.shape[1] < span or len(evaluation_N) < span:
        return 0
    spans_BSL, there_ML = calibration_BT.unfold(1, span, 1), evaluation_N.unfold(0, span, 1)
    hash_BS, hash_M = _hashes(calibration_BT, span), _hashes(evaluation_N[None], span)[0]
    hash_M, order_M = hash_M.sort(stable=True)
    covered_BT = torch.zeros_like(calibration_BT, dtype=torch.bool)
    for b, s in torch.isin(hash_BS, hash_M).nonzero().tolist():
        first, last = torch.searchsorted(hash_M, hash_BS[b, s]), torch.searchsorted(hash_M, hash_BS[b, s], right=True)
        if (there_ML[order_M[first:last]] == spans_BSL[b, s]).all(1).any():
            covered_BT[b, s : s + span] = True
    return int(covered_BT.sum())


def _hashes(ids_BT: Tensor, span: int) -> Tensor:
    """The hash of each span, int64 (B, T - span + 1): a polynomial in its token ids, modulo 2^64."""
    hash_BS = torch.zeros(len(ids_BT), ids_BT.shape[1] - span + 1, dtype=torch.int64)
    for offset in range(span):
        hash_BS = hash_BS * 6364136223846793005 + ids_BT[:, offset : offset + hash_BS.shape[1]] + 1
    return hash_BS

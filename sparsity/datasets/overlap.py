"""Does the calibration text hold what is evaluated on? Spans of `span` tokens that stand in both are found by their hash and
then compared token by token, so a collision cannot report what is not there. O(N span) time.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPAN = 50  # tokens: beyond quotations and set phrases


def shared_tokens(calibration_BT: Tensor, evaluation_N: Tensor, span: int = SPAN) -> int:
    """How many calibration tokens, each position of each sequence once, lie in a span that the evaluation text holds too."""
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
    """A polynomial in the ids of each span, modulo 2^64: int64 (B, T - span + 1)."""
    hash_BS = torch.zeros(len(ids_BT), ids_BT.shape[1] - span + 1, dtype=torch.int64)
    for offset in range(span):
        hash_BS = hash_BS * 6364136223846793005 + ids_BT[:, offset : offset + hash_BS.shape[1]] + 1
    return hash_BS

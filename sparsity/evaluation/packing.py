"""Answers that are no tensors, as one: what is remembered of a dense model is filed as tensors."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def pack(content: Any) -> Tensor:
    """Any JSON value as its UTF-8 bytes, uint8 (N,). Raises `ValueError` for NaN and infinity."""
    return torch.frombuffer(bytearray(json.dumps(content, allow_nan=False).encode()), dtype=torch.uint8)


def unpack(bytes_N: Tensor) -> Any:
    return json.loads(bytes_N.numpy().tobytes())

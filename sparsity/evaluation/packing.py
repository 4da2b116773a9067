"""Conversion of JSON values to tensors and back, because the cache stores the evaluation of a dense model as tensors."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def pack(content: Any) -> Tensor:
    """The UTF-8 bytes of a JSON value, uint8 (N,). Raises `ValueError` for NaN and infinity."""
    return torch.frombuffer(bytearray(json.dumps(content, allow_nan=False).encode()), dtype=torch.uint8)


def unpack(bytes_N: Tensor) -> Any:
    """The JSON value of these bytes."""
    return json.loads(bytes_N.numpy().tobytes())

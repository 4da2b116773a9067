"""The packed format of a checkpoint: one bit for every weight, and the values of the non-zero weights in row order. Lossless.

A tensor `NAME` with E-byte elements is stored as `NAME.keep` (uint8, ceil(numel / 8) bytes, the first weight in the lowest bit) and
`NAME.values` (the elements with any bit set, so -0.0 is included), or unchanged if that is smaller. At sparsity s the file has
1 - s + 1 / (8 E) of the dense size: 9/16 in bfloat16 at 50 %. transformers no longer has a compressed format of this kind. This one
is for storage and transport; a loaded model is stored densely in memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..core import UserError

FILE = "model.packed.safetensors"
FORMAT = "sparsity-lab packed 1"
KEEP, VALUES = ".keep", ".values"
BITS = {
    1: torch.uint8,
    2: torch.int16,
    4: torch.int32,
    8: torch.int64,
}  # element size in bytes -> integer type to read its bits


def packed_bytes(weight_N: Tensor) -> int:
    """The number of bytes that a tensor, of any shape, takes in the file."""
    return min(_dense_bytes(weight_N), _sparse_bytes(weight_N, _kept(weight_N)))


def save_packed(tensors: Iterable[tuple[str, Tensor]], path: Path) -> None:
    """Write the items of a state dict to the file `path`. The caller must pass tensors that share memory only once."""
    parts: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors:
        keep_N = _kept(tensor)
        if _dense_bytes(tensor) <= _sparse_bytes(tensor, keep_N):
            parts[name] = tensor.contiguous()
            continue
        shapes[name] = list(tensor.shape)
        parts[name + KEEP], parts[name + VALUES] = _to_bits(keep_N), tensor.flatten()[keep_N].contiguous()
    save_file(parts, path, metadata={"format": FORMAT, "shapes": json.dumps(shapes)})


def load_packed(path: Path) -> dict[str, Tensor]:
    """The state dict, bit for bit. Raises `UserError` if the file has another format or is damaged."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise UserError(
                f"{path} is in the format {metadata.get('format')!r}: expected {FORMAT!r}, as packed=true writes it. "
                f"Pack the checkpoint again"
            )
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    for name, shape in json.loads(metadata["shapes"]).items():
        keep_N, values_K = _from_bits(parts.pop(name + KEEP), math.prod(shape)), parts.pop(name + VALUES)
        if int(keep_N.sum()) != len(values_K):
            raise UserError(f"{path}: {name} has {len(values_K)} values for {int(keep_N.sum())} bits: it is damaged")
        dense_N = torch.zeros(len(keep_N), dtype=values_K.dtype)
        dense_N[keep_N] = values_K
        parts[name] = dense_N.view(shape)
    return parts


def _dense_bytes(weight_N: Tensor) -> int:
    return weight_N.numel() * weight_N.element_size()


def _sparse_bytes(weight_N: Tensor, keep_N: Tensor) -> int:
    return math.ceil(len(keep_N) / 8) + int(keep_N.sum()) * weight_N.element_size()


def _kept(tensor_N: Tensor) -> Tensor:
    """The flat mask (N,) of the elements with any bit set."""
    return tensor_N.detach().contiguous().flatten().view(BITS[tensor_N.element_size()]) != 0


def _to_bits(keep_N: Tensor) -> Tensor:
    padded_8M = torch.nn.functional.pad(keep_N, (0, -len(keep_N) % 8)).view(-1, 8)
    weights_8 = 2 ** torch.arange(8, dtype=torch.uint8, device=keep_N.device)
    return (padded_8M * weights_8).sum(1, dtype=torch.uint8)


def _from_bits(bits_M: Tensor, length: int) -> Tensor:
    return (bits_M[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).flatten()[:length].bool()

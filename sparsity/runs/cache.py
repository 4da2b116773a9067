"""What is worth remembering between runs: the dense model's evaluations, content-addressed, in the user's cache folder.

The name of an entry is the hash of all that determines it, so an entry is never out of date. It is written atomically, carries
its own checksum, and is computed again if it fails that: a damaged entry is named, never used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..models.cache import cache_dir

log = logging.getLogger(__name__)


def content_hash(content: Any) -> str:
    """sha256 of a value as JSON; what JSON does not know counts by its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def remembered(
    kind: str, content: Mapping[str, Any], compute: Callable[[], Mapping[str, Tensor]]
) -> Mapping[str, Tensor]:
    """The tensors filed under `content`, computed and filed if they are not there."""
    path = cache_dir() / kind / f"{content_hash(content)}.safetensors"
    found = _read(path) if path.exists() else None
    if found is None:
        found = dict(compute())
        _write(path, found)
    return found


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            stored = (file.metadata() or {}).get("checksum")
    except (SafetensorError, OSError) as error:
        log.warning("%s is damaged (%s): computing it again", path, error)
        return None
    if stored != checksum(tensors):
        log.warning("%s is damaged (its checksum differs): computing it again", path)
        return None
    return tensors


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{uuid.uuid4().hex[:8]}")
    try:
        save_file(tensors, unfinished, metadata={"checksum": checksum(tensors)})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

"""When are two runs the same? The run key is a hash of everything that can change a result: the resolved options that matter, the
files they name, and the code that computes. Runs with one key are not repeated.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from .settings import Settings

PACKAGE = Path(__file__).parents[1]


def run_key(settings: Settings, parts: Mapping[str, Any], device: torch.device, classes: Iterable[type]) -> str:
    """16 hexadecimal digits. `parts`: the components' resolved options; `classes`: what their targets name."""
    # sparsity and seed act through the components that read them: 2-of-4 is the same run whatever `sparsity` says
    computed = settings.model_dump(exclude={"name", "sparsity", "seed", "device", "allow", "plan", "rerun"})
    matters = {
        "settings": computed,
        "parts": {name: part for name, part in parts.items() if name != "tracker"},
        "files": {name: files_identity(parts[name]) for name in ("model", "dataset")},
        "device": device.type,
        "code": code_version(classes),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return hashlib.sha256(json.dumps(matters, sort_keys=True, default=str).encode()).hexdigest()[:16]


def files_identity(options: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Path, bytes and modification time of every file that an option names, itself or as a folder."""
    named = [Path(os.path.expanduser(value)) for value in options.values() if isinstance(value, str)]
    files = [  # os.path: a string that cannot be a path, such as a long separator, is not there rather than an error
        file
        for path in named
        if os.path.exists(path)
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
    ]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def code_version(classes: Iterable[type]) -> str:
    """sha256 over this package's source and that of the user's own classes."""
    sources = set(PACKAGE.rglob("*.py")) | {Path(inspect.getfile(cls)) for cls in classes}
    digest = hashlib.sha256()
    for source in sorted(sources):
        name = source.relative_to(PACKAGE) if source.is_relative_to(PACKAGE) else source.name
        digest.update(f"{name}\n".encode() + source.read_bytes())
    return digest.hexdigest()

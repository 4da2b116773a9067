"""A digest of a value, which tells whether it is the same again."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_hash(content: Any) -> str:
    """sha256 of a value as JSON; what JSON does not know counts by its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

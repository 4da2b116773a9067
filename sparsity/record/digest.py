"""The digest of a value: equal for equal values."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def content_hash(content: Any) -> str:
    """The sha256 of a value as JSON. Objects that JSON does not know count by their `str`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

"""What a mistake in the options is, and what may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ..user_error import UserError

MISTAKES = (UserError, HydraException, OmegaConfBaseException)


def alternatives(key: str, keys: Collection[str]) -> str:
    """What `key` may have meant, and the options beside it."""
    parent = key.rpartition(".")[0]
    beside = [k for k in keys if k.rpartition(".")[0] == parent]
    if not beside:
        parent, beside = "", [k for k in keys if "." not in k]
    close = difflib.get_close_matches(key, keys, n=3)
    hint = f"\nDid you mean: {', '.join(close)}?" if close else ""
    return f"{hint}\nOptions{f' of {parent}' if parent else ''}: {', '.join(sorted(beside))}"

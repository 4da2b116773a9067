"""The numbers in nested mappings and lists, such as a result. Trackers and the report get their numbers from here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[int | float]:
    """True for a finite int or float. A bool is no number here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbers(node: Any, separator: str, path: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number with its path, such as "perplexity/pruned". List items are named by their index."""
    if isinstance(node, Mapping | list | tuple):
        for name, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from numbers(value, separator, f"{path}{separator}{name}" if path else str(name))
    elif is_number(node):
        yield path, node

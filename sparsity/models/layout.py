"""The names of a checkpoint's files in Hugging Face's layout, and the words for one that cannot be used.

Light: a model that is only named, because its run finished earlier, does not wait seconds for transformers.
"""

from __future__ import annotations

from collections.abc import Iterable

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONVERT = (
    "pickled weights are never opened, so load it once where you trust it, `save_pretrained` it into a new folder, "
    "and use model=local with that folder"
)


def listed(names: Iterable[str], most: int = 4) -> str:
    """The first `most` names in alphabetical order, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


def first_line(err: BaseException) -> str:
    """The first line of an error's message; its class where it has none."""
    return (str(err).strip() or type(err).__name__).splitlines()[0]

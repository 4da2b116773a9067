"""The dense model of a run, and of a sweep: loaded once in a process, and dense again in front of every point."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from functools import cached_property

import torch
from torch import Tensor

from ..datasets import tokenise
from ..models import Decoder, Loaded

log = logging.getLogger(__name__)


class Dense:
    """A model as it was loaded, until the run prunes it."""

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.decoder = Decoder(loaded.model, loaded.tokenizer, loaded.files)
        self._ids: dict[str, Tensor] = {}

    @cached_property
    def fingerprint(self) -> str:
        """Of the dense weights: to be asked for before the first is pruned."""
        return self.decoder.fingerprint()

    def ids(self, text: str) -> Tensor:
        """The tokens (N,) of a text."""
        if text not in self._ids:
            self._ids[text] = tokenise(text, self.loaded.tokenizer)
        return self._ids[text]


class Held:
    """The model of a sweep's last point. It is restored from a copy of its dense weights, or from its files, not loaded again.

    A model that is not what it was to the last bit after that is loaded again, which a line of the log says.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._dense: Dense | None = None
        self._weights: dict[str, Tensor] = {}

    def dense(self, key: Hashable, load: Callable[[], Loaded]) -> Dense:
        """`key`: equal for points of one model."""
        if self._dense is not None and self._key == key:
            self._restore(self._dense)
            if self._dense.decoder.fingerprint() == self._dense.fingerprint:
                return self._dense
            log.warning("%s could not be restored for this point: loading it again", self._dense.loaded.name)
        self._key, self._dense, self._weights = None, None, {}  # two models need not fit
        dense = Dense(load())
        copied = {} if dense.loaded.files else dict(dense.loaded.model.named_parameters())
        weights = {name: p.detach().clone() for name, p in copied.items()}
        _ = dense.fingerprint
        self._key, self._dense, self._weights = key, dense, weights
        return dense

    @torch.no_grad()
    def _restore(self, dense: Dense) -> None:
        if dense.loaded.files:
            dense.loaded.files.restore()
            return
        for name, parameter in dense.loaded.model.named_parameters():
            parameter.copy_(self._weights[name])

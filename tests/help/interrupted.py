"""Runs that are killed in front of a layer, and how two runs are compared to the last bit."""

from __future__ import annotations

import pytest
import torch
from commands import SMALL, Run, command

from sparsity import engine

FOUR = ("model.num_blocks=4",)


class Killed(BaseException):
    """Nobody catches it, as nobody catches a signal."""


def killed(monkeypatch, *words: str, at: str) -> None:
    """A run that ends in front of the layer whose name has this ending."""
    inner = engine._prune_layer

    def dies(plan, block, site, *rest):
        if site.name.endswith(at):
            raise Killed
        return inner(plan, block, site, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_prune_layer", dies)
        with pytest.raises(Killed):
            command(*SMALL, *FOUR, *words)


def same(a: Run, b: Run) -> None:
    assert a.result["mask_sha256"] == b.result["mask_sha256"]
    assert a.result["perplexity"] == b.result["perplexity"]
    assert a.windows == b.windows
    timeless = [[{k: v for k, v in row.items() if "seconds" not in k} for row in run.layers] for run in (a, b)]
    assert timeless[0] == timeless[1]
    for name, weight in a.weights.items():
        assert torch.equal(weight, b.weights[name]), name

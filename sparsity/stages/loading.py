"""The stage `load`: the dense model, and the plan for pruning it. In a sweep, each process loads a model once and makes it dense
again before every point.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core import UserError
from ..datasets import tokenise
from ..engine import Plan, plan, select
from ..models import Decoder, Loaded
from ..options.components import check_source
from ..record.folders import stamps
from .job import Job
from .sizes import shapes
from .stage import Cost, Found, Outlook, Plain

if TYPE_CHECKING:
    from .work import Work

log = logging.getLogger(__name__)


class DenseModel:
    """A loaded model, dense until the run prunes it."""

    def __init__(self, loaded: Loaded):
        self.loaded = loaded
        self.decoder = Decoder(loaded.model, loaded.tokenizer, loaded.files)
        self._ids: dict[str, Tensor] = {}

    @cached_property
    def fingerprint(self) -> str:
        """The digest of the dense weights. Read it before the first weight is pruned: it is computed on first use."""
        return self.decoder.fingerprint()

    def ids(self, text: str) -> Tensor:
        """The token ids (N,) of a text."""
        if text not in self._ids:
            self._ids[text] = tokenise(text, self.loaded.tokenizer)
        return self._ids[text]


class Held:
    """The model of a sweep's last point. For the next point it is restored from a copy of its dense weights or from its files.

    If the restored weights are not bitwise those of before, the model is loaded again, which a line of the log says.
    """

    def __init__(self) -> None:
        self._key: Hashable = None
        self._dense: DenseModel | None = None
        self._weights: dict[str, Tensor] = {}

    def dense(self, key: Hashable, load: Callable[[], Loaded]) -> DenseModel:
        """Return the dense model, restored or loaded. `key`: equal for points of one model."""
        if self._dense is not None and self._key == key:
            self._restore(self._dense)
            if self._dense.decoder.fingerprint() == self._dense.fingerprint:
                return self._dense
            log.warning("%s could not be restored for this point: loading it again", self._dense.loaded.name)
        self._key, self._dense, self._weights = None, None, {}  # free the old model first: two may not fit into memory
        dense = DenseModel(load())
        copied = {} if dense.loaded.files else dict(dense.loaded.model.named_parameters())
        weights = {name: p.detach().clone() for name, p in copied.items()}
        _ = dense.fingerprint
        self._key, self._dense, self._weights = key, dense, weights
        return dense

    @torch.no_grad()
    def _restore(self, dense: DenseModel) -> None:
        if dense.loaded.files:
            dense.loaded.files.restore()
            return
        for name, parameter in dense.loaded.model.named_parameters():
            parameter.copy_(self._weights[name])


@dataclass(frozen=True)
class Load(Plain):
    """The stage `load`."""

    name = "load"

    def check(self, job: Job) -> None:
        if job.processes.size > 1:
            self._check_shared(job)
        check_source(job.parts, "model")

    @staticmethod
    def _check_shared(job: Job) -> None:
        """Raise `UserError` for a device or a model that several processes cannot share."""
        if job.device.type not in ("cpu", "cuda"):
            raise UserError(
                f"device={job.device.type} under torchrun: expected cuda or cpu. Add device=cpu, or leave out torchrun"
            )
        if job.parts.model.stream:
            raise UserError(
                f"model.stream=true keeps the blocks that have changed in the folder of one process: expected one, got "
                f"{job.processes.size}. Start python run.py without torchrun, or leave model.stream=false"
            )

    def cost(self, outlook: Outlook) -> Cost:
        """The bytes of the model; of a streamed model, those of one block and of all that is outside the blocks. In a sweep a dense
        copy is held too. A streamed model is read three times: to check, to prune and to count it.
        """
        of, streamed = outlook.shapes, outlook.streamed
        held = {"model outside its blocks": of.outside, "a block": of.block} if streamed else {"model": of.weights}
        if outlook.sweep and not streamed:
            held["dense copy for the sweep"] = of.weights
        disk = {
            "changed blocks": of.blocks * (streamed and not outlook.settings.save)
        }  # a saved checkpoint includes them
        return Cost(held, disk=disk, moved=(3 if streamed else 1) * of.weights)

    def do(self, work: Work, known: None) -> Found:
        with work.busy("loading"):
            work.dense = dense_model(work.job, work.held)
            loaded = work.dense.loaded
            if loaded.files and work.scratch:
                loaded.files.keep_in(work.scratch)
            work.plan = planned(work.job, work.decoder)
            if work.job.settings.save or work.scratch:  # space for the checkpoint, or for the changed blocks
                work.job.store.check_space(shapes(work.decoder).weights)
        model = {"name": loaded.name, **loaded.origin, "dtype": str(loaded.model.dtype).removeprefix("torch.")}
        return Found({"model": model})


def dense_model(job: Job, held: Held | None) -> DenseModel:
    """The dense model that the job names. `held`: the model of a sweep's last point, if this is a sweep."""
    source, dtype = job.parts.model, job.settings.torch_dtype
    if held is None:
        return DenseModel(source.load(dtype))
    return held.dense((repr(source), dtype, tuple(stamps(source.files()))), lambda: source.load(dtype))


def planned(job: Job, decoder: Decoder) -> Plan:
    """The plan of the job's composition for this model. Raises `UserError` if they do not fit together."""
    scope, parts = job.settings.scope, job.parts
    sites = select(decoder.sites, scope.roles, scope.last_blocks, scope.skip)
    return plan(
        decoder,
        parts.method,
        parts.pattern,
        parts.corrector,
        sites,
        job.settings.errors,
        scope.lm_head,
        parts.refine,
    )

"""A run's calibration text as ids: sequences at random positions of the dataset's text, and those that the model writes itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core import UserError
from ..datasets import sample_apart
from ..engine import Plan
from ..models import written
from ..record.environment import circumstances
from .calibration import text
from .job import Job
from .key import writing_key
from .loading import Dense


class Sequences(NamedTuple):
    ids_BT: Tensor | None  # that are learnt from; None where nothing asks for them
    held_out_HT: Tensor | None  # that are not, at other places of the text; None if there are none


def calibration_ids(job: Job, dense: Dense, plan: Plan) -> Sequences:
    """The first process draws them, and gives them to the others."""
    parts = job.parts
    if plan.last < 0 and parts.allocation.measurement is None and not parts.recover.reads_text:
        return Sequences(None, None)
    ids_BT, held_out_HT = job.processes.each(_drawn(job, dense) if job.processes.rank == 0 else [])
    return Sequences(ids_BT, held_out_HT if len(held_out_HT) else None)


def _drawn(job: Job, dense: Dense) -> tuple[Tensor, Tensor]:
    """What the model writes stands in front, since a tuning holds out the last; it is remembered."""
    calibration = job.settings.calibration
    generator = torch.Generator().manual_seed(calibration.seed)
    ids_N = dense.ids(job.parts.dataset.calibration_text())
    ids_BT, held_out_HT = sample_apart(
        ids_N, calibration.num_sequences, calibration.held_out, calibration.seqlen, generator
    )
    if not calibration.written:
        return ids_BT, held_out_HT
    pieces_MP = ids_BT.unfold(1, calibration.prompt, 1).flatten(0, 1)
    prompts_BP = pieces_MP[torch.randint(len(pieces_MP), (calibration.written,), generator=generator)]

    def write() -> dict[str, Tensor]:
        with dense.decoder.on(job.device):
            return {"ids": written(dense.decoder.model, prompts_BP, calibration.seqlen, generator)}

    known = {
        "evaluator": f"text written, {calibration.seqlen} tokens each, seed {calibration.seed}",
        **text(dense, prompts_BP),
        **circumstances(job.device),
        **writing_key(),
    }
    return torch.cat([job.cache.remembered(known, write)["ids"], ids_BT]), held_out_HT


def check(sequences: int, seqlen: int, prompt: int) -> None:
    """Raise `UserError` where a prompt leaves nothing to write."""
    if sequences and prompt >= seqlen:
        raise UserError(
            f"calibration.prompt={prompt} leaves nothing of calibration.seqlen={seqlen} tokens to write: expected fewer, such as 16"
        )

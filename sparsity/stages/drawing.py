"""The stage `draw`: the token ids of the calibration text and of the evaluation text. Calibration sequences are taken at random
positions of the dataset's text, or are written by the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core import UserError
from ..datasets import sample_apart
from ..datasets.overlap import SPAN, shared_tokens
from ..models import Decoder, written
from ..models.writing import AT_ONCE
from ..options.components import check_source
from ..options.settings import Calibration
from ..record import console
from ..record.environment import circumstances
from .calibration import model_and_text
from .job import Job
from .key import writing_key
from .loading import DenseModel
from .sizes import Shapes
from .stage import Cost, Found, Outlook, Plain

if TYPE_CHECKING:
    from .work import Work


@dataclass(frozen=True)
class Draw(Plain):
    """The stage `draw`."""

    name = "draw"

    def check(self, job: Job) -> None:
        text = job.settings.calibration
        check_source(job.parts, "dataset")
        if text.written and text.prompt >= text.seqlen:
            raise UserError(
                f"calibration.prompt={text.prompt} leaves nothing of calibration.seqlen={text.seqlen} tokens to write: expected "
                f"fewer, such as 16"
            )
        if text.written and job.parts.model.stream:
            raise UserError(
                f"calibration.written={text.written} runs the whole model for every token, and model.stream=true would read all of "
                f"its blocks as often: expected 0. Leave one of them as it is by default"
            )
        if text.held_out and job.settings.layer_error is False:
            raise UserError(
                f"calibration.held_out={text.held_out} is text to measure the layers' errors on, and layer_error=false measures "
                f"none. Leave one of them out"
            )
        batches = -(-text.sequences // text.batch_size)
        if batches < job.processes.size:
            console.say(
                f"{batches} batches of calibration text for {job.processes.size} processes: some processes get none. "
                f"calibration.batch_size={max(text.sequences // job.processes.size, 1)} gives each a part"
            )

    def cost(self, outlook: Outlook) -> Cost:
        """The keys and values of all blocks and the logits of the prompts, for `AT_ONCE` sequences; nothing if the model writes no
        text.
        """
        calibration, of = outlook.settings.calibration, outlook.shapes
        asked = outlook.plan.last >= 0 or reads_text(outlook.parts)
        tokens = calibration.written * calibration.seqlen * asked
        each = len(outlook.decoder.blocks) * of.operations(calibration.seqlen) + of.logits
        peaks = {"write": _written_at_once(calibration, outlook.decoder, of)} if tokens else {}
        return Cost(peaks=peaks, operations={"writing": tokens * each})

    def do(self, work: Work, known: None) -> Found:
        job, dense = work.job, work.dense
        with work.busy("drawing text"):
            if work.plan.last >= 0 or reads_text(job.parts):
                drawn = job.processes.each(_drawn(job, dense) if job.processes.rank == 0 else [])
                work.ids_BT, held_out_HT = drawn
                work.held_out_HT = held_out_HT if len(held_out_HT) else None
            if any(evaluator.reads_text for evaluator in job.parts.evaluation.values()):
                work.ids_N = dense.ids(job.parts.dataset.evaluation_text())
            for evaluator in job.parts.evaluation.values():
                evaluator.check(work.ids_N)
        tokens = 0 if work.ids_BT is None else work.ids_BT.numel()
        leaked = None if work.ids_BT is None or not len(work.ids_N) else leakage(work.ids_BT, work.ids_N)
        return Found(
            {
                "dataset": job.parts.dataset.describe(),
                "calibration": {**job.settings.calibration.model_dump(), "tokens": tokens},
                "leakage": leaked,
            }
        )


def reads_text(parts: Any) -> bool:
    """True if the allocation or the recovery needs calibration text."""
    return parts.allocation.measurement is not None or bool(parts.recover.reads_text)


def _drawn(job: Job, dense: DenseModel) -> tuple[Tensor, Tensor]:
    """The calibration sequences (B, T) and the held-out sequences (H, T).

    Sequences that the model writes come first, because tuning holds out the last ones. They are cached.
    """
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
        **model_and_text(dense, prompts_BP),
        **circumstances(job.device),
        **writing_key(),
    }
    return torch.cat([job.cache.remembered(known, write)["ids"], ids_BT]), held_out_HT


def leakage(ids_BT: Tensor, ids_N: Tensor) -> dict[str, float]:
    """The number and share of calibration tokens in spans of `SPAN` tokens that the evaluation text contains too."""
    shared = shared_tokens(ids_BT, ids_N)
    if shared:
        console.say(
            f"leakage: {shared:,} of {ids_BT.numel():,} calibration tokens stand in spans of {SPAN} tokens that the evaluation "
            f"text holds too, so the perplexity looks better than on new text"
        )
    return {"span": SPAN, "tokens": ids_BT.numel(), "shared": shared, "share": shared / ids_BT.numel()}


def _written_at_once(calibration: Calibration, decoder: Decoder, of: Shapes) -> dict[str, int]:
    """Bytes for the sequences that the model writes at the same time."""
    config = decoder.model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or of.width // config.num_attention_heads)
    sequences = min(calibration.written, AT_ONCE)
    return {
        "keys and values": 2 * of.element * sequences * calibration.seqlen * width * len(decoder.blocks),
        "logits": of.element * sequences * calibration.prompt * of.vocabulary,
    }

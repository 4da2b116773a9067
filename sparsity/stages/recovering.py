"""The stage `recover`: tunes all surviving weights of the model together, after every block is pruned. The dense model's
predictions, which it needs, are collected before the first layer is pruned.

An interrupted recovery resumes at its last note. A run that was interrupted later reads the recovered weights from the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core import Site, UserError
from ..models import Decoder
from ..notes import Notes
from ..recover import Recovered, Taught
from .job import Job
from .pruning import unpacked
from .sizes import KEPT, TUNED, tokens_of_tuning
from .stage import Cost, Found, Outlook, Plain

if TYPE_CHECKING:
    from .work import Work


@dataclass(frozen=True)
class Recover(Plain):
    """The stage `recover`."""

    name = "recover"
    shared = False

    def check(self, job: Job) -> None:
        text, recovery = job.settings.calibration, job.parts.recover
        if job.parts.model.stream and recovery.reads_text:
            raise UserError(
                "recover tunes the survivors of all blocks together, and model.stream=true leaves the blocks in their files: "
                "expected recover=none. Use refine=block, which tunes one block at a time, or leave model.stream=false"
            )
        recovery.check(text.sequences, text.batch_size)

    def cost(self, outlook: Outlook) -> Cost:
        """The bytes of the dense model's predictions, held from the first stage on, of the copies of all tuned weights, and of a
        batch's activations.

        A float32 model is its own copy. While gradients are computed (`learn`) there is no copy of the best weights.
        """
        of, calibration, recovery = outlook.shapes, outlook.settings.calibration, outlook.parts.recover
        if not recovery.reads_text:
            return Cost(operations={"recovering": 0})
        blocks = len(outlook.decoder.blocks)
        changed = sum(outlook.decoder.layer(site).weight_OI.numel() for site in outlook.plan.sites)
        copies = 4 * changed * (TUNED - (of.element == 4))
        again = recovery.recompute
        kept = KEPT * of.outputs * (1 if again else blocks) + of.width * blocks * again
        tokens, each = calibration.sequences * calibration.seqlen, calibration.batch_size * calibration.seqlen
        positions = calibration.batch_size * min(recovery.positions, calibration.seqlen)
        return Cost(
            held={
                "dense model's predictions": of.element * tokens * of.width
                + of.outside * (outlook.plan.head is not None)
            },
            peaks={
                "recover": {"tuned weights": copies, "masks": changed},
                "learn": {
                    "tuned weights": copies - 2 * 4 * changed,
                    "masks": changed,
                    "activations": of.element * each * kept,
                    "logits": 4 * 4 * positions * of.vocabulary,  # the logits of both models, and a copy of each
                },
            },
            # the newest note and the one before it, each with weights, Adam's two moments and the best weights; then the result
            disk={"notes of the recovery": (2 * 4 * 4 + of.element) * changed * outlook.settings.journal},
            operations={
                "recovering": tokens_of_tuning(recovery, calibration)
                * (blocks * of.operations(calibration.seqlen) + of.logits)
            },
        )

    def before(self, work: Work) -> Taught | None:
        """The dense model's predictions to recover towards; None if nothing is recovered."""
        recovery = work.job.parts.recover
        if not recovery.reads_text or work.ids_BT is None:
            return None
        with work.decoder.on(work.job.device):
            return recovery.teach(work.decoder, work.batches, work.plan.head is not None)

    def do(self, work: Work, known: Taught | None) -> Found:
        if known is None:
            return Found({"recovery": {}})
        work.record.journal.settle()  # a recovery may change the last block's weights in place
        plan, decoder, notes = work.plan, work.decoder, work.record.journal.notes(self.name)
        sites = [site for site in plan.needs if plan.method.asked(site, plan.patterns[site])]
        recovered = _finished(decoder, sites, notes)
        if recovered is None:
            with work.busy("recovering"), decoder.on(work.job.device):
                keeps = {site: unpacked(work.keeps[site], decoder.layer(site).weight_OI) for site in sites}
                recovered = work.job.parts.recover.recover(decoder, keeps, work.batches, known, notes)
            weights = {site.name: decoder.layer(site).weight_OI for site in sites}
            notes.replace({"facts": dict(recovered.facts), "rows": recovered.rows}, weights)
        return Found({"recovery": dict(recovered.facts)}, {"recovery": recovered.rows})


def _finished(decoder: Decoder, sites: Sequence[Site], notes: Notes) -> Recovered | None:
    """Return the result of a recovery that finished before the interruption, and write its weights into the model; else None."""
    for about, weights in notes.read()[-1:]:
        if "facts" in about:
            for site in sites:
                decoder.blocks[site.block].write(site, weights[site.name])
            return Recovered(about["facts"], about["rows"])
    return None

"""The stage `recover`: all survivors of the model are tuned together, once every block is pruned. What it must know of the dense
model is taken before the first layer is pruned.

It resumes within a descent, at its last note, and a run that was interrupted later finds the recovered weights in the journal.
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
        """What the dense model predicts, from the first stage on; then copies of all weights that are tuned, and a batch's
        activations.

        A model in float32 is its own copy. While there is a gradient (`learn`) the best weights are not copied.
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
                    "logits": 4 * 4 * positions * of.vocabulary,  # of both models, and a copy of each
                },
            },
            # the newest note and the one before it: weights, Adam's two, the best so far; then what was recovered
            disk={"notes of the recovery": (2 * 4 * 4 + of.element) * changed * outlook.settings.journal},
            operations={
                "recovering": tokens_of_tuning(recovery, calibration)
                * (blocks * of.operations(calibration.seqlen) + of.logits)
            },
        )

    def before(self, work: Work) -> Taught | None:
        """What to recover towards; None where nothing is to recover."""
        recovery = work.job.parts.recover
        if not recovery.reads_text or work.ids_BT is None:
            return None
        with work.decoder.on(work.job.device):
            return recovery.teach(work.decoder, work.batches, work.plan.head is not None)

    def do(self, work: Work, known: Taught | None) -> Found:
        if known is None:
            return Found({"recovery": {}})
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
    """What a recovery found before the run was interrupted; its weights are written into the model. None if it did not finish."""
    for about, weights in notes.read()[-1:]:
        if "facts" in about:
            for site in sites:
                decoder.blocks[site.block].write(site, weights[site.name])
            return Recovered(about["facts"], about["rows"])
    return None

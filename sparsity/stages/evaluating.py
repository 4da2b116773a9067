"""The stage `evaluate`: the dense model's answers, cached between runs, and the pruned model compared with them.

An interrupted evaluation resumes after the last part of the text in its notes. An evaluator that had finished does not run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..cache import content_hash
from ..core import UserError
from ..evaluation import Walked
from ..evaluation.windows import Windowed
from ..evaluator import Evaluator, Measured, Model
from ..measures import Measure
from ..models import Decoder, Itself, Loaded, ModelSource
from ..notes import Notes
from ..options.components import check_source
from ..record.folders import stamps
from ..record.result import evaluated
from .job import Job
from .key import reference_key
from .loading import DenseModel
from .sizes import Shapes
from .stage import Cost, Found, Outlook, Plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .work import Work


class Reference(NamedTuple):
    """The answers that the pruned model is compared with."""

    answers: Mapping[str, Mapping[str, Tensor]]  # the dense model's answers, by the evaluator's name
    origin: Mapping[str, Any] | None  # the model named by `reference`; None: the model before pruning


@dataclass(frozen=True)
class Evaluate(Plain):
    """The stage `evaluate`."""

    name = "evaluate"
    shared = False

    def check(self, job: Job) -> None:
        check_source(job.parts, "reference")
        read = [name for name in ("model", "reference") if getattr(job.parts, name).stream]
        for name, evaluator in job.parts.evaluation.items():
            if read and not evaluator.streams:
                raise UserError(
                    f"evaluation {name} runs whole models, and {read[0]}.stream=true leaves its blocks in their files: expected "
                    f"evaluations over windows (perplexity, divergence). Add save=true, and evaluate the checkpoint where it fits"
                )

    def cost(self, outlook: Outlook) -> Cost:
        """The logits of a batch, two float32 copies of a sequence's logits, and the text's hidden states where they are kept."""
        of, streamed = outlook.shapes, outlook.streamed
        windowed = [evaluator for evaluator in outlook.parts.evaluation.values() if isinstance(evaluator, Windowed)]
        tokens = [_tokens(evaluator, outlook.tokens) for evaluator in windowed]
        blocks = len(outlook.decoder.blocks)
        kept = [n * (streamed + asked.keeps_states) for asked, n in zip(windowed, tokens, strict=True)]
        each = [blocks * of.operations(evaluator.seqlen) + of.logits for evaluator in windowed]
        peak = {
            "logits": max((_logits(evaluator, of) for evaluator in windowed), default=0),
            "hidden states": of.element * of.width * max(kept, default=0),
        }
        return Cost(
            peaks={"evaluate": peak},
            operations={"evaluation": sum(2 * n * ops for n, ops in zip(tokens, each, strict=True))},
            moved=2 * len(windowed) * of.weights * streamed,
        )

    def before(self, work: Work) -> Reference:
        job = work.job
        with work.busy("evaluating the dense model"):
            other = referred(job.parts.reference, work.dense.loaded, job.settings.torch_dtype)
            answers = references(work, DenseModel(other) if other else work.dense)
        return Reference(answers, {"name": other.name, **other.origin} if other else None)

    def do(self, work: Work, known: Reference) -> Found:
        measured: dict[str, Measured] = {}
        with work.busy("evaluating the pruned model"), work.decoder.on(work.job.device):
            for name, evaluator in work.job.parts.evaluation.items():
                measured[name] = _compared(work, name, evaluator, known.answers[name])
        summaries = {name: dict(found.summary) for name, found in measured.items()}
        first = summaries.get("perplexity", {})
        return Found(
            {
                "reference": known.origin,
                "perplexity": {which: first.get(which) for which in ("dense", "pruned")},
                "evaluation": summaries,
            },
            {found.table: found.rows for found in measured.values()},
            evaluated(measured),
        )


def referred(source: ModelSource | Itself, loaded: Loaded, dtype: torch.dtype | None) -> Loaded | None:
    """The other model to compare with; None if none is named. Raises `UserError` if its vocabulary differs."""
    if isinstance(source, Itself):
        return None
    other = source.load(dtype)
    if other.tokenizer.get_vocab() != loaded.tokenizer.get_vocab():
        raise UserError(
            f"reference={other.name} has another vocabulary than {loaded.name}: expected the model that it was made from, or "
            f"one with the same tokenizer, since windows and answers are compared token by token. Name another reference"
        )
    return other


def references(work: Work, dense: DenseModel) -> Mapping[str, Mapping[str, Tensor]]:
    """The dense model's answers by evaluator. Their cache key holds everything that can change a bit of them."""
    evaluators, ids_N, device = work.job.parts.evaluation, work.ids_N, work.job.device
    if not evaluators:
        return {}
    decoder = dense.decoder
    known = {
        "model": dense.fingerprint,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    text = hashlib.sha256(ids_N.numpy().tobytes()).hexdigest()
    tokenizer = decoder.tokenizer and tokenizer_hash(decoder.tokenizer)

    def answer(evaluator: Evaluator, notes: Notes) -> Mapping[str, Tensor]:
        with decoder.on(device):
            return evaluator.reference(seen(decoder), ids_N, notes)

    found: dict[str, Mapping[str, Tensor]] = {}
    for name, evaluator in evaluators.items():
        its = {"evaluator": repr(evaluator), "files": stamps(evaluator.files()), **reference_key(evaluator)}
        content = known | its | ({"text": text} if evaluator.reads_text else {"tokenizer": tokenizer})
        ask = partial(answer, evaluator, work.record.journal.notes(f"evaluate-dense-{name}"))
        found[name] = work.job.cache.remembered(content, ask) if evaluator.remembers else ask()
    return found


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """The sha256 of everything that decides how a text or a message becomes ids. For evaluators with a text of their own."""
    engine = getattr(tokenizer, "backend_tokenizer", None)  # a fast tokenizer holds everything in it, as JSON
    vocabulary = engine.to_str() if engine is not None else sorted(tokenizer.get_vocab().items())
    return content_hash([vocabulary, tokenizer.special_tokens_map, tokenizer.chat_template])


def _compared(work: Work, name: str, evaluator: Evaluator, reference: Mapping[str, Tensor]) -> Measured:
    """An evaluator's measurement of the pruned model, made now or read from the notes of the interrupted run."""
    finished = work.record.journal.notes(f"evaluated-{name}")
    for about, _ in finished.read():
        return Measured(**{**about, "measures": [Measure(**measure) for measure in about["measures"]]})
    notes = work.record.journal.notes(f"evaluate-pruned-{name}")
    measured = evaluator.compare(seen(work.decoder), work.ids_N, reference, notes)
    finished.add(asdict(measured), {})
    return measured


def _tokens(evaluator: Windowed, tokens: int) -> int:
    """The number of evaluation tokens; the requested number if the text's is not known (`tokens` is 0)."""
    asked = None if evaluator.windows is None else evaluator.windows * evaluator.seqlen
    return min(asked or tokens, tokens or asked or 0)


def _logits(evaluator: Windowed, of: Shapes) -> int:
    return evaluator.seqlen * of.vocabulary * (of.element * evaluator.batch_size + 8)


def seen(decoder: Decoder) -> Model:
    """The model in the form that evaluators use: a model with streamed blocks is wrapped in `Walked`."""
    return Walked(decoder) if decoder.files else decoder

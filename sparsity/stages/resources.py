"""What a run will hold, write and compute, before it does: a function of the model's shapes and the options.

For blocks of b bytes, e bytes an element, N calibration tokens of width I, n of them in a batch (text that is held out has its own
states and Grams). Memory is the model (all of it, in a sweep twice, since every point begins with it dense; or, read block by
block, what is outside its blocks and b) and what the hungriest stage holds besides:

    observe    statistics of a block, those of layers that see the same tensors once (a Gram: 4 I^2);
               e N I for each copy of the hidden states: one, another for what dense blocks put out, two more where the dense
               model's are carried along; e n for each output of a block's layers; the journal of the block before, while a file is
               made of it: the hidden states, the block if it rests in files, and COPIES times the larger of both
    prune      the statistics and the hidden states; a byte for each weight of the block, its mask; WORK float32 numbers for each
               weight of the largest layer, and FACTORS times its largest statistic, to compute with; the journal and its file
    refine     TUNED float32 numbers for each weight of the block (a copy, its gradient, Adam's two, the best so far, twice while
               one replaces another), masks, KEPT times the activations of a batch for the gradient, the hidden states, the journal
    write      where the model writes text: the keys and values of all blocks for AT_ONCE sequences, the logits of their prompts
    recover    TUNED float32 numbers for each weight of all blocks that is tuned; a model in float32 is its own copy
    learn      two fewer, as long as there is no gradient; KEPT times the activations of a batch, of all blocks, or of one where
               they are computed again; the logits of POSITIONS tokens of each sequence in it, of both models
    evaluate   the logits of a batch, and in float32, twice, of a sequence; e I for each token of the text whose states are kept

What a recovery must know of the dense model, e I for a token, is held from the first stage on.
Operations: 2 P + 4 T I for a token and a block with P weights in a pass, T tokens a sequence; I^2 for a token and a Gram; 2 V I for
the logits of a token. A pass that observes counts in full, though it ends at the last input that is asked for, and a tuning with
all epochs that it may take. What methods, allocations and correctors compute is not in it: only they know; nor is another model
that a `reference` names, which is gone before the first block.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..core import Site, Tap
from ..engine import GRAM, Plan
from ..evaluation import Divergence
from ..evaluation.windows import Windowed
from ..models import Decoder
from ..models.writing import AT_ONCE
from ..options.components import Parts
from ..options.settings import Calibration, Settings
from ..predictions import POSITIONS
from ..recover import Distillation, Recovery
from ..stream import Needs, now
from ..tuning import Tuning

# Measured: tests/stages/test_resources.py holds the sum to what a process takes.
WORK = 6  # a score, its selection and a few copies
FACTORS = 2  # a Cholesky factor and its inverse
COPIES = 2  # parts and the whole
TUNED = 6  # see above
KEPT = 3  # inputs, outputs and what is between: of a layer's outputs
PROGRAM = 40 * 2**20  # bytes of code that is imported on the way
FILES = 2**30  # bytes that are read or written in a second: assumed
RATED = 1024  # rows and columns of the product by which a machine is measured


@dataclass(frozen=True)
class Needed:
    model: Mapping[str, int]  # bytes of memory, all the time
    stages: Mapping[str, Mapping[str, int]]  # and besides, while this is done
    disk: Mapping[str, int]  # bytes
    operations: Mapping[str, int]
    moved: int  # bytes read from files and written to them

    @property
    def most(self) -> str:
        """The stage that holds most."""
        return max(self.stages, key=lambda stage: sum(self.stages[stage].values()))

    @property
    def memory(self) -> int:
        """Bytes at the peak, beside those that the program holds when it starts."""
        return PROGRAM + sum(self.model.values()) + sum(self.stages[self.most].values())

    def seconds(self, rate: float) -> float:
        """At so many operations a second."""
        return sum(self.operations.values()) / rate + self.moved / FILES

    def told(self, before: int, rate: float) -> Iterator[str]:
        """For people. `before`: bytes that the program holds without a model."""
        held = {"program": before + PROGRAM, **self.model, **self.stages[self.most]}
        yield f"will need about {_size(before + self.memory)} of memory, most of it to {self.most}: {_listed(held)}"
        yield f"and about {_size(sum(self.disk.values()))} of disk: {_listed(self.disk) or 'tables'}"
        yield (
            f"and {_duration(self.seconds(rate))} or more: {sum(self.operations.values()) / 1e12:,.2f} TFLOP at "
            f"{rate / 1e9:,.0f} GFLOP/s, {_size(self.moved)} of files at {_size(FILES)}/s; methods, allocations and correctors "
            f"come on top"
        )


@dataclass(frozen=True)
class Shapes:
    """What counts of a model, in bytes of its own dtype and in numbers of weights."""

    outside: int  # bytes outside the blocks
    blocks: int  # bytes of all of them
    block: int  # bytes of the largest
    linear: int  # weights of its linear layers
    outputs: int  # of those, together
    layer: int  # weights of the largest of them
    width: int
    vocabulary: int
    element: int  # bytes of a number

    @property
    def weights(self) -> int:
        return self.outside + self.blocks

    def operations(self, seqlen: int) -> int:
        """Of a token in a block."""
        return 2 * self.linear + 4 * seqlen * self.width

    @property
    def logits(self) -> int:
        """Operations for those of a token."""
        return 2 * self.vocabulary * self.width


def shapes(decoder: Decoder) -> Shapes:
    of_blocks = [sum(map(_bytes, block.module.parameters())) for block in decoder.blocks]
    layers = [[block.layer(site).weight_OI for site in block.linears] for block in decoder.blocks]
    embedding_VE = decoder.embedding_VE
    return Shapes(
        outside=sum(map(_bytes, decoder.model.parameters())) - sum(of_blocks),
        blocks=sum(of_blocks),
        block=max(of_blocks),
        linear=max(sum(weight_OI.numel() for weight_OI in its) for its in layers),
        outputs=max(sum(len(weight_OI) for weight_OI in its) for its in layers),
        layer=max(weight_OI.numel() for its in layers for weight_OI in its),
        width=decoder.model.config.get_text_config(decoder=True).hidden_size,
        vocabulary=len(embedding_VE),
        element=embedding_VE.element_size(),
    )


def needed(
    settings: Settings, parts: Parts, decoder: Decoder, plan: Plan, tokens: int, stream: bool, sweep: bool = False
) -> Needed:
    """`tokens`: of the evaluation text, 0 where it is not known; `stream`: the model is read block by block; `sweep`: the run is a
    point of one.

    Of the model only the shapes are looked at.
    """
    of, calibration = shapes(decoder), settings.calibration
    windowed = [evaluator for evaluator in parts.evaluation.values() if isinstance(evaluator, Windowed)]
    calibrated, judged = (
        n * calibration.seqlen if plan.last >= 0 else 0 for n in (calibration.sequences, calibration.held_out)
    )
    batch = min(calibration.batch_size * calibration.seqlen, calibrated)
    states = calibrated * _copies(plan, calibration) + judged * (1 + (calibration.propagate == "dense"))
    hidden = of.element * states * of.width
    judges = dict.fromkeys(plan.needs, (GRAM,)) if judged else {}
    folded = statistics(calibration, decoder, plan.needs) + statistics(calibration, decoder, judges)
    largest = _largest(calibration, decoder, plan.needs)
    put, file = (hidden + of.block * stream) * settings.journal, max(hidden, of.block) * settings.journal
    texts = {evaluator: _tokens(evaluator, tokens) for evaluator in windowed}
    kept = [n * (stream + isinstance(evaluator, Divergence)) for evaluator, n in texts.items()]
    changed = sum(decoder.layer(site).weight_OI.numel() for site in plan.sites)
    cached = settings.cache.statistics and calibration.propagate == "dense" and plan.refinement.target is None
    folds = {"statistics": max(folded.values(), default=0), "hidden states": hidden}
    stages = {
        "observe": {**folds, "activations": of.element * batch * of.outputs, "journal": put + COPIES * file},
        "prune": {
            **folds,
            "masks": of.linear,
            "work": 4 * WORK * of.layer + FACTORS * largest,
            "journal": put + file,
        },
        "evaluate": {
            "logits": max((_logits(evaluator, of) for evaluator in windowed), default=0),
            "hidden states": of.element * of.width * max(kept, default=0),
        },
    }
    if plan.refinement.target is not None:
        stages["refine"] = {
            "tuned weights": 4 * TUNED * of.linear,
            "masks": of.linear,
            "activations": KEPT * of.element * batch * of.outputs,
            "hidden states": hidden,
            "journal": put + file,
        }
    asked = plan.last >= 0 or parts.allocation.measurement is not None or parts.recover.reads_text
    written = calibration.written * calibration.seqlen * asked
    if written:
        stages["write"] = _writing(calibration, decoder, of)
    if parts.recover.reads_text:
        copies = 4 * changed * (TUNED - (of.element == 4))
        stages["recover"] = {"tuned weights": copies, "masks": changed}
        stages["learn"] = {
            "tuned weights": copies - 2 * 4 * changed,
            "masks": changed,
            **_learning(calibration, parts.recover, decoder, of),
        }
    disk = {
        "checkpoint": of.weights * settings.save,
        "changed blocks": of.blocks * (stream and not settings.save),  # of a checkpoint they are a part
        "journal": (of.element * changed + changed // 8 + 2 * hidden) * settings.journal,
        "statistics": sum(folded.values()) * cached,
    }
    passes = calibrated * _passes(plan, calibration) + judged * (1 if calibration.propagate == "dense" else 2)

    def whole(seqlen: int) -> int:
        """Operations of a token on its way through the model."""
        return len(decoder.blocks) * of.operations(seqlen) + of.logits

    operations = {
        "calibration": passes * (plan.last + 1) * of.operations(calibration.seqlen),
        "statistics": calibrated * sum(_products(calibration, decoder, plan.needs).values())
        + judged * sum(_products(calibration, decoder, judges).values()),
        "evaluation": sum(2 * n * whole(evaluator.seqlen) for evaluator, n in texts.items()),
        "writing": written * whole(calibration.seqlen),
        "refining": _tuning(plan.refinement, calibration) * (plan.last + 1) * of.operations(calibration.seqlen),
        "recovering": _tuning(parts.recover, calibration) * whole(calibration.seqlen),
    }
    # read to check, prune and count; twice for what is measured and for the digest
    walks = 3 + 2 * len(texts) + 2 * (plan.last >= 0) if stream else 1
    moved = walks * of.weights + sum(disk.values())
    model = {"model outside its blocks": of.outside, "a block": of.block} if stream else {"model": of.weights}
    if sweep and not stream:
        model["dense copy for the sweep"] = of.weights
    if parts.recover.reads_text:
        text = of.element * calibration.sequences * calibration.seqlen * of.width
        model["dense model's predictions"] = text + of.outside * (plan.head is not None)
    return Needed(model, stages, disk, operations, moved)


def statistics(calibration: Calibration, decoder: Decoder, needs: Needs) -> Counter[int]:
    """Bytes by block. Layers that see the same tensors share a state."""
    return _summed(calibration, decoder, needs, lambda state: sum(map(_bytes, _tensors(state))))


def _products(calibration: Calibration, decoder: Decoder, needs: Needs) -> Counter[int]:
    """Operations a token, by block: of a matrix, half the product of a column and a row."""
    return _summed(calibration, decoder, needs, lambda state: sum(t.numel() for t in _tensors(state) if t.ndim == 2))


def _largest(calibration: Calibration, decoder: Decoder, needs: Needs) -> int:
    """Bytes of the largest tensor that is folded."""
    states = _states(calibration, decoder, needs)
    return max((_bytes(tensor) for _, state in states for tensor in _tensors(state)), default=0)


def _summed(calibration: Calibration, decoder: Decoder, needs: Needs, of: Callable[[Any], int]) -> Counter[int]:
    summed = Counter[int]()
    for block, state in _states(calibration, decoder, needs):
        summed[block] += of(state)
    return summed


def _states(calibration: Calibration, decoder: Decoder, needs: Needs) -> Iterator[tuple[int, Any]]:
    """Each state that is folded, of tensors without memory, and its block."""
    seen: set[tuple[Any, ...]] = set()
    for site, taps in needs.items():
        for tap in taps:
            key = (site.block, _source(site, tap), tap.statistic)
            if key in seen:
                continue
            seen.add(key)
            width = decoder.blocks[site.block].width(site, *tap.source(site))
            x_BTI = torch.empty(1, 1, width, dtype=decoder.embedding_VE.dtype, device="meta")
            grouping = tap.statistic.grouping
            rows = grouping.rows(calibration.sequences, calibration.seqlen) if grouping else 0
            yield site.block, tap.statistic.zero(x_BTI, rows)


def _source(site: Site, tap: Tap[Any]) -> tuple[str, str]:
    """What the tap sees: layers whose rows are neurons of one attention or one MLP have the same input."""
    if tap.of is None and tap.side == "input" and site.neurons is not None and site.neurons.axis == "row":
        return "input", site.role if site.role == "attention" else site.neurons.module
    return tap.source(site)


def _copies(plan: Plan, calibration: Calibration) -> int:
    """Of the hidden states, at most."""
    dense, target = calibration.propagate == "dense", plan.refinement.target
    return 1 + (dense or target == "own") + 2 * (not dense and target == "dense")


def _passes(plan: Plan, calibration: Calibration) -> int:
    """Through each block."""
    return 1 if calibration.propagate == "dense" else 2 + (plan.refinement.target == "dense")


def _tokens(evaluator: Windowed, tokens: int) -> int:
    """That are measured on. Of a text that is not known, as many as are asked for."""
    asked = None if evaluator.windows is None else evaluator.windows * evaluator.seqlen
    return min(asked or tokens, tokens or asked or 0)


def _logits(evaluator: Windowed, of: Shapes) -> int:
    return evaluator.seqlen * of.vocabulary * (of.element * evaluator.batch_size + 8)


def _tuning(part: object, calibration: Calibration) -> int:
    """Tokens that a part reads to tune weights, a pass back counted as two."""
    if not isinstance(part, Tuning):
        return 0
    batches = math.ceil(calibration.sequences / calibration.batch_size)
    return part.passes(batches) * calibration.batch_size * calibration.seqlen


def _writing(calibration: Calibration, decoder: Decoder, of: Shapes) -> dict[str, int]:
    """Of the sequences that are written at once."""
    config = decoder.model.config.get_text_config(decoder=True)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = heads * (getattr(config, "head_dim", None) or of.width // config.num_attention_heads)
    sequences = min(calibration.written, AT_ONCE)
    return {
        "keys and values": 2 * of.element * sequences * calibration.seqlen * width * len(decoder.blocks),
        "logits": of.element * sequences * calibration.prompt * of.vocabulary,
    }


def _learning(calibration: Calibration, recovery: Recovery, decoder: Decoder, of: Shapes) -> dict[str, int]:
    """From a batch."""
    sequences, blocks = calibration.batch_size, len(decoder.blocks)
    again = isinstance(recovery, Distillation) and recovery.recompute
    kept = KEPT * of.outputs * (1 if again else blocks) + of.width * blocks * again
    return {
        "activations": of.element * sequences * calibration.seqlen * kept,
        "logits": 4 * 4 * sequences * min(POSITIONS, calibration.seqlen) * of.vocabulary,  # p, q, and a copy of each
    }


def _tensors(state: Any) -> list[Tensor]:
    return [part for part in (state if isinstance(state, tuple) else (state,)) if isinstance(part, Tensor)]


def _bytes(x_ANY: Tensor) -> int:
    return x_ANY.numel() * x_ANY.element_size()


@cache
def rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations in a second of a matrix product of this machine, measured once: a fraction of a second."""
    a_NN = torch.ones(RATED, RATED, device=device, dtype=dtype)
    a_NN @ a_NN  # wakes the threads
    start, count = now(device), 0
    while now(device) - start < 0.2:
        a_NN @ a_NN
        count += 1
    return 2 * RATED**3 * count / (now(device) - start)


def _size(held: int) -> str:
    return f"{held / 2**30:,.1f} GiB" if held >= 2**30 else f"{held / 2**20:,.1f} MiB"


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:,.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:,.0f} min"
        if seconds >= 90
        else f"{seconds:,.0f} s"
    )


def _listed(held: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {_size(some)}" for what, some in held.items() if some)

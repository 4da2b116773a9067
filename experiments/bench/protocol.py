"""The model, the text and the evaluation of experiment=protocol, for the benchmarks that use them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import hydra
import torch
from torch import Tensor

from sparsity.datasets import sample, tokenise
from sparsity.evaluator import Evaluator
from sparsity.models import Loaded
from sparsity.options.components import build, components
from sparsity.options.mistakes import MISTAKES
from sparsity.options.settings import read

CONF = Path(__file__).parents[2] / "conf"
INSTEAD = (
    "experiment=protocol reads wiki.valid.raw and wiki.test.raw of WikiText-2 from the folder that WIKITEXT2_RAW names; the word "
    "dataset=pydocs reads the Python manual in their place"
)


class Protocol(NamedTuple):
    """A model with its calibration and evaluation text."""

    loaded: Loaded
    ids_BT: Tensor  # token ids of the calibration text
    batch_size: int
    evaluator: Evaluator
    ids_N: Tensor  # token ids of the evaluation text


def protocol(words: Sequence[str]) -> Protocol:
    """`words` of a command line on top of it, such as model=tiny dataset=pydocs. A mistake ends the process with one message."""
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = hydra.compose("config", ["experiment=protocol", *words])
        settings, parts = read(config), build(components(config))
        parts.model.check()
        parts.dataset.check()
    except MISTAKES as error:
        sys.exit(f"error: {error}\n{INSTEAD}")
    calibration = settings.calibration
    loaded = parts.model.load(settings.torch_dtype)
    generator = torch.Generator().manual_seed(calibration.seed)
    text_N = tokenise(parts.dataset.calibration_text(), loaded.tokenizer)
    ids_BT = sample(text_N, calibration.num_sequences, calibration.seqlen, generator)
    ids_N = tokenise(parts.dataset.evaluation_text(), loaded.tokenizer)
    return Protocol(loaded, ids_BT, calibration.batch_size, parts.evaluation["perplexity"], ids_N)

"""Reads a checkpoint in Hugging Face's layout, from a folder or the hub, and refuses models that cannot be pruned here.

The cheapest part is read first: configuration, tokenizer, weights. Only safetensors are opened, because unpickling a .bin file runs
code that its author may have put into it. A missing weight is an error, because transformers would draw it at random.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from sparsity.core import UserError
from sparsity.models.files import Files
from sparsity.models.layout import CONVERT, INDEX, SINGLE, first_line, listed
from sparsity.models.packed import FILE as PACKED
from sparsity.models.packed import load_packed
from sparsity.models.skeleton import skeleton

log = logging.getLogger(__name__)

CAUSAL = ("ForCausalLM", "LMHeadModel")


def configuration(place: str | Path, **options: Any) -> PreTrainedConfig:
    """The configuration of a causal language model with plain weights.

    Raises `UserError` for every other model, and `OSError` if there is no configuration.
    """
    try:
        with quiet():
            config: PreTrainedConfig = AutoConfig.from_pretrained(place, **options)
    except (ValueError, KeyError) as err:  # the model type is missing, unknown, or defined by the model's own code
        raise UserError(
            f"{place}: got a config.json that transformers cannot use ({first_line(err)}); expected a model type "
            f"that it knows; update transformers, or, if you trust code that comes with the model, use model=hub "
            f"model.trust_remote_code=true"
        ) from err
    if (found := objection(config)) is not None:
        architecture = ", ".join(config.architectures or ()) or type(config).__name__
        raise UserError(
            f"{place}: got {architecture}, {found}; expected a causal language model (...ForCausalLM or ...LMHeadModel)"
            f" with plain weights; choose such a checkpoint"
        )
    return config


def objection(config: PreTrainedConfig) -> str | None:
    """A few words on why this is no causal language model with plain weights; None if it is one."""
    if config.is_encoder_decoder:
        return "an encoder-decoder"
    if config.architectures and not any(name.endswith(CAUSAL) for name in config.architectures):
        return "trained for something else than the next token"
    # BERT and similar encoders also have a causal class, which attends in both directions unless `is_decoder` is set.
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False):
        return "an encoder that sees both directions"
    own_code = getattr(config, "auto_map", None) or {}
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and "AutoModelForCausalLM" not in own_code:
        return "for which transformers has no causal language model"
    if getattr(config, "quantization_config", None) is not None:
        return "with quantised weights"
    return None


def read(
    place: str | Path, config: PreTrainedConfig, dtype: torch.dtype | None, stream: bool, **options: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Files | None]:
    """The model, on the CPU and in evaluation mode, its tokenizer, and its files if it is streamed.

    `stream`: the weights of the blocks stay in the files. Raises `UserError` if a part is missing or cannot be used.
    """
    with quiet():
        tokenizer = _tokenizer(place, **options)
        if stream:
            options.pop("trust_remote_code", None)  # a streamed model never runs such code
            files = _streamed(place, config, dtype, **options)
            return files.model, tokenizer, files
        return _model(place, config, dtype, **options), tokenizer, None


def _tokenizer(place: str | Path, **options: Any) -> PreTrainedTokenizerBase:
    reason = "it knows no word"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, **options)
        for said in ("local_files_only", "is_local"):  # arguments of this call, which must not be exported
            tokenizer.init_kwargs.pop(said, None)
        # If the files are missing, some classes (GPT2Tokenizer) give an empty tokenizer instead of an error.
        if set(tokenizer("The cat sat.").input_ids) - set(tokenizer.all_special_ids):
            return tokenizer
    except (OSError, ValueError, TypeError, ImportError) as err:
        reason = first_line(err)
    raise UserError(
        f"{place}: got no usable tokenizer ({reason}); expected its files (tokenizer.json, tokenizer_config.json) "
        f"beside the weights; copy them from the model that this one was made from"
    )


def _model(place: str | Path, config: PreTrainedConfig, dtype: torch.dtype | None, **options: Any) -> PreTrainedModel:
    options |= {
        "config": config,
        "dtype": "auto" if dtype is None else dtype,
        "use_safetensors": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # no error here: `_complete` names them together with the missing ones
    }
    with _explained(place, SINGLE):
        if (packed := Path(place) / PACKED).is_file():
            cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]  # AutoModelForCausalLM would look for a file of weights
            model, found = cls.from_pretrained(None, state_dict=load_packed(packed), **options)
            _generation(model, place, local_files_only=True)
        else:
            model, found = AutoModelForCausalLM.from_pretrained(place, **options)
    missing = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
    _complete(place, model, missing, found["unexpected_keys"])
    result: PreTrainedModel = model.eval().requires_grad_(False)
    return result


def _streamed(place: str | Path, config: PreTrainedConfig, dtype: torch.dtype | None, **options: Any) -> Files:
    """The files of the weights, and in them the model without the weights of its blocks."""
    with _explained(place, f"{SINGLE} or shards"):
        paths = list(_safetensors(place, **options))
        model = skeleton(config, dtype or config.dtype or _first_dtype(paths))
        files = Files(model, paths)
    if files.converted or model._get_dtype_plan(model.dtype):
        cls = type(model).__name__
        what = (
            f"{listed(files.converted)}, stored in another form than {cls} computes with"
            if files.converted
            else f"{cls}, which computes with more than one dtype"
        )
        raise UserError(f"{place}: got {what}; expected weights that can be read one by one; leave model.stream=false")
    _complete(place, model, files.missing, files.spare)
    _generation(model, place, **options)
    return files


@contextmanager
def _explained(place: str | Path, expected: str) -> Iterator[None]:
    """A context that turns errors of weight files into a `UserError`."""
    try:
        yield
    except OSError as err:
        raise UserError(f"{place}: got {first_line(err)}; expected {expected}; {CONVERT}") from err
    except SafetensorError as err:
        raise UserError(
            f"{place}: got a damaged safetensors file ({first_line(err)}); expected a whole one; fetch it again"
        ) from err


def _safetensors(place: str | Path, **options: Any) -> Iterator[Path]:
    """The files with the weights: one file, or those that the index names. Raises `OSError` if there is neither."""
    if (single := cached_file(place, SINGLE, _raise_exceptions_for_missing_entries=False, **options)) is not None:
        yield Path(single)
        return
    index = json.loads(Path(cached_file(place, INDEX, **options)).read_text("utf-8"))
    for name in sorted(set(index["weight_map"].values())):
        yield Path(cached_file(place, name, **options))


def _first_dtype(paths: Iterable[Path]) -> torch.dtype:
    """The dtype of the first floating-point tensor, for checkpoints whose configuration gives no dtype."""
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                dtype: torch.dtype = file.get_tensor(name).dtype
                if dtype.is_floating_point:
                    return dtype
    return torch.get_default_dtype()


def _generation(model: PreTrainedModel, place: str | Path, **options: Any) -> None:
    with suppress(OSError):  # not every checkpoint has a generation_config.json
        model.generation_config = GenerationConfig.from_pretrained(place, **options)


def _complete(place: str | Path, model: PreTrainedModel, missing: Collection[str], spare: Collection[str]) -> None:
    if missing:
        raise UserError(
            f"{place}: got a checkpoint without {listed(missing)}, or with other shapes; expected every weight of "
            f"{type(model).__name__}; missing weights would be random, so mend the checkpoint or its config.json"
        )
    if spare:
        log.warning("%s: %s has no parameter for %s: ignored", place, type(model).__name__, listed(spare))


@contextmanager
def quiet() -> Iterator[None]:
    """A context without transformers' progress bars and warnings. What matters in them is raised or logged here in one line."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()

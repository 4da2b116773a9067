"""The options that belong to no component, with types and ranges, and the check of the components' arguments.

Hydra knows every key but not the ranges, such as sparsity < 1. All values that `ranges` refuses are reported in one `UserError`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict

from ..core import UserError
from ..engine import LayerError
from ..ranges import Count, Range, Refused, Seed, Sparsity, Text, Tokens, fits, options, words
from ..stream import Propagate

Sequences = Annotated[int, Range(least=0, cap=10**6, such=8)]  # sequences that are drawn or written


class Options(BaseModel):
    """A part of the configuration. `read` checks its ranges with `check_arguments` before it makes one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Calibration(Options):
    """The options of the calibration text."""

    num_sequences: Count
    seqlen: Tokens
    batch_size: Count
    held_out: Sequences
    written: Sequences
    prompt: Count
    seed: Seed
    propagate: Propagate

    @property
    def sequences(self) -> int:
        """The number of calibration sequences, drawn and written, without the held-out ones."""
        return self.num_sequences + self.written


class ScopeOptions(Options):
    """The options that select the layers to prune."""

    roles: list[Literal["attention", "mlp"]]
    last_blocks: Count | None
    skip: list[str]
    lm_head: bool


class CacheOptions(Options):
    """The options of the cache between runs."""

    statistics: bool
    limit_gib: Annotated[float, Range(least=0, cap=2**30, such=50)]


class Settings(Options):
    """The options in config.yaml that belong to no component."""

    name: Annotated[str, Text(r"(?=.*\w)[\w.-]{1,100}", "letters, digits, and _ . -, 100 at most")]
    sparsity: Sparsity
    seed: Seed
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    layer_error: LayerError
    scope: ScopeOptions
    calibration: Calibration
    cache: CacheOptions
    journal: bool
    objective: str
    allow: list[str]
    save: bool
    packed: bool
    plan: bool
    rerun: bool

    @property
    def errors(self) -> LayerError:
        """The setting `layer_error`; True instead of "auto" if text is held out, whose errors are compared with them."""
        return True if self.calibration.held_out and self.layer_error == "auto" else self.layer_error

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype of the model; None for the checkpoint's own."""
        return None if self.dtype == "auto" else getattr(torch, self.dtype)


def read(config: DictConfig) -> Settings:
    """The settings of a composed configuration. Raises one `UserError` for all values that are missing or not valid."""
    missing = OmegaConf.missing_keys(config)
    if missing:
        named = " ".join(f"{key}=..." for key in sorted(missing))
        raise UserError(f"not set: {', '.join(sorted(missing))}. These have no default: add {named}")
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    chosen = {key: container[key] for key in Settings.model_fields}
    check_arguments("", Settings, chosen)
    return Settings(**chosen)


def check_arguments(path: str, target: type, arguments: Mapping[str, Any]) -> None:
    """Check that the arguments have the names, types and ranges of the constructor. `path`: their place, "method.routes.mlp".

    Raises one `UserError` for all wrong values. A part of the configuration inside another one is checked too.
    """
    parameters = inspect.signature(target).parameters
    above = f"{path}." if path else ""
    if strange := [f"{above}{key}" for key in arguments if key not in parameters]:
        are = "is no option" if len(strange) == 1 else "are no options"
        raise UserError(
            f"{', '.join(strange)} {are} of {target.__name__}: expected {', '.join(parameters) or 'none'}. "
            f"What another file sets for something else is left out with {' '.join(f'~{name}' for name in strange)}"
        )
    for name, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name not in arguments and parameter.default is parameter.empty and not variadic:
            raise UserError(f"{above}{name} is not set, which {target.__name__} needs: add {above}{name}=...")
    try:
        kinds = options(target)
    except NameError:  # a class of the user, with names under TYPE_CHECKING
        return
    parts = {key: kinds[key] for key in arguments if _is_part(kinds.get(key)) and isinstance(arguments[key], Mapping)}
    said = [
        str(Refused({key: value}, words(kinds[key], value), path))
        for key, value in arguments.items()
        if key in kinds and key not in parts and not fits(value, kinds[key])
    ]
    if said:
        raise UserError("; ".join(said))
    for key, part in parts.items():
        check_arguments(f"{above}{key}", part, arguments[key])


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Options)


def resolve_device(name: str, local: int | None = None) -> torch.device:
    """The device of this name; for `auto` CUDA, else Apple's MPS, else the CPU. Raises `UserError` if it cannot be used.

    `local`: the number of this process on its machine if there are several processes. It then gets the CUDA device of that number.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name} is no device: expected auto, cpu, cuda, cuda:1, mps, ...") from error
    if local is not None and device.type == "cuda":
        if ":" in name or local >= torch.cuda.device_count():
            raise UserError(
                f"device={name} for process {local} of this machine, which has {torch.cuda.device_count()} GPUs: expected "
                f"device=cuda or auto, which give each process its own GPU. Start at most one for each GPU (--nproc-per-node), or "
                f"device=cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)  # the device of collective operations
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device={name} cannot be used ({reason}): expected auto, cpu, or a device of this machine"
        ) from error
    return device

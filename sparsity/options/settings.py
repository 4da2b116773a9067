"""The options that are no component, typed and in range; and the check of the components' own arguments.

Hydra composes and knows every key; it does not know that a sparsity is below 1. What `ranges` refuses becomes one `UserError`.
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

Sequences = Annotated[int, Range(least=0, cap=10**6, such=8)]  # which are drawn, or written, one by one


class Options(BaseModel):
    """A part of the configuration. Its ranges are compared by `check_arguments`, which `read` asks before it makes one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Calibration(Options):
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
        """Those that are learnt from."""
        return self.num_sequences + self.written


class ScopeOptions(Options):
    roles: list[Literal["attention", "mlp"]]
    last_blocks: Count | None
    skip: list[str]
    lm_head: bool


class CacheOptions(Options):
    statistics: bool
    limit_gib: Annotated[float, Range(least=0, cap=2**30, such=50)]


class Settings(Options):
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
        """Of the layers: all are wanted where text is held out to compare them with."""
        return True if self.calibration.held_out and self.layer_error == "auto" else self.layer_error

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """None: the checkpoint's own."""
        return None if self.dtype == "auto" else getattr(torch, self.dtype)


def read(config: DictConfig) -> Settings:
    """The settings of a composed configuration. `UserError` names all that is missing, of the wrong type or out of range."""
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
    """Do the arguments have the names, types and ranges of the constructor? `path` is where they stand: "method.routes.mlp".

    Raises one `UserError` that names all that is wrong. A part of the configuration within another is checked with it.
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
    except NameError:  # a class of the user's with names that only a type checker sees
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
    """`auto`: CUDA, else Apple's MPS, else the CPU. Raises `UserError` for a device that is not there.

    `local`: the number of this process on its machine, if it is one of several; then it has the CUDA device of that number.
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
                f"device=cuda or auto, which give each process one of its own. Start at most so many (--nproc-per-node), or "
                f"device=cpu"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)  # where collective operations take place
    try:
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device={name} cannot be used ({reason}): expected auto, cpu, or a device of this machine"
        ) from error
    return device

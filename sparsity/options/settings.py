"""The options that are no component, typed and in range; and the types of the components' own arguments.

Hydra composes and knows every key; it does not know that a sparsity is below 1. What pydantic refuses becomes one `UserError`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_type_hints

import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from ..core import UserError
from ..engine import LayerError
from ..stream import Propagate

# Where pydantic's own words do not say what to write.
EXPECTED = {
    "list_type": "expected a list, such as [one,two]",
    "bool_type": "expected true or false",
    "string_pattern_mismatch": "expected letters, digits, and _ . -",
}


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Calibration(Options):
    num_sequences: PositiveInt
    seqlen: Annotated[int, Field(ge=2)]
    batch_size: PositiveInt
    held_out: Annotated[int, Field(ge=0)]
    written: Annotated[int, Field(ge=0)]
    prompt: PositiveInt
    seed: int
    propagate: Propagate

    @property
    def sequences(self) -> int:
        """Those that are learnt from."""
        return self.num_sequences + self.written


class ScopeOptions(Options):
    roles: list[Literal["attention", "mlp"]]
    last_blocks: PositiveInt | None
    skip: list[str]
    lm_head: bool


class CacheOptions(Options):
    statistics: bool
    limit_gib: Annotated[float, Field(ge=0)]


class Settings(Options):
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    sparsity: Annotated[float, Field(ge=0, lt=1)]
    seed: int
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
    options = OmegaConf.to_container(config, resolve=True)
    assert isinstance(options, dict)
    settings: Settings = _checked("", lambda: Settings(**{key: options[key] for key in Settings.model_fields}))
    return settings


def check_arguments(path: str, target: type, arguments: Mapping[str, Any]) -> None:
    """Do the arguments have the names and types of the constructor? `path` is where they stand: "method.routes.mlp"."""
    parameters = inspect.signature(target).parameters
    if strange := [f"{path}.{key}" for key in arguments if key not in parameters]:
        are = "is no option" if len(strange) == 1 else "are no options"
        raise UserError(
            f"{', '.join(strange)} {are} of {target.__name__}: expected {', '.join(parameters) or 'none'}. "
            f"What another file sets for something else is left out with {' '.join(f'~{name}' for name in strange)}"
        )
    for name, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if name not in arguments and parameter.default is parameter.empty and not variadic:
            raise UserError(f"{path}.{name} is not set, which {target.__name__} needs: add {path}.{name}=...")
    try:
        hints = get_type_hints(target.__init__)  # type: ignore[misc]
    except NameError:  # a class of the user's with names that only a type checker sees
        return
    for key, value in arguments.items():
        nested = isinstance(value, Mapping) and any("_target_" in str(v) for v in (value, *value.values()))
        if key in hints and not nested:
            adapter = TypeAdapter(hints[key], config=ConfigDict(strict=True, arbitrary_types_allowed=True))
            _checked(f"{path}.{key}", lambda adapter=adapter, value=value: adapter.validate_python(value))


def _checked(path: str, construct: Any) -> Any:
    try:
        return construct()
    except ValidationError as error:
        lines = []
        for detail in error.errors(include_url=False):
            where = ".".join(
                filter(None, [path, *(str(part) for part in detail["loc"] if not str(part).startswith("function"))])
            )
            expected = EXPECTED.get(detail["type"], detail["msg"].replace("Input should be", "expected"))
            lines.append(f"{where}={detail['input']} is not valid: {expected}")
        raise UserError("; ".join(dict.fromkeys(lines))) from error


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

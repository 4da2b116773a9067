"""The result of a finished run. Only this module knows the content of result.json.

`Result.of` makes a result from the findings of a run's stages, `to_json` returns the content of result.json, and `read` reads a
result, also from an older version's folder. Sections that are not named here are kept too (`more`). A number of the wrong type
counts as unknown, so that the rest of a result can still be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ..measures import Measure
from ..user_error import UserError
from .known import stated, unstated
from .numbers import is_number, numbers
from .older import SCHEMA, upgraded
from .store import RESULT, read_result

if TYPE_CHECKING:  # a report reads results and must not load torch
    from ..evaluator import Measured


def _texts(value: Any) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, Mapping) else {}


def _numbers(value: Any) -> dict[str, Any]:
    return {str(k): v for k, v in value.items() if v is None or is_number(v)} if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> dict[str, Any]:
    return {str(k): dict(v) for k, v in value.items() if isinstance(v, Mapping)} if isinstance(value, Mapping) else {}


def _measures(value: Any) -> tuple[Measure, ...]:
    given = value if isinstance(value, list | tuple) else ()
    return tuple(one if isinstance(one, Measure) else Measure.from_json(one) for one in given)


Number = Annotated[int | float | None, BeforeValidator(lambda value: value if is_number(value) else None)]
Text = Annotated[str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)]
Texts = Annotated[dict[str, str], BeforeValidator(_texts)]
Numbers = Annotated[dict[str, int | float | None], BeforeValidator(_numbers)]
Mappings = Annotated[dict[str, dict[str, Any]], BeforeValidator(_mappings)]
Listed = BeforeValidator(lambda value: list(value) if isinstance(value, list | tuple) else [])
Section = BeforeValidator(lambda value: value if isinstance(value, Mapping | BaseModel) else {})
Maybe = BeforeValidator(lambda value: value if isinstance(value, Mapping | BaseModel) else None)
Named = BeforeValidator(lambda value: {"name": value} if isinstance(value, str) and value else value)


class Part(BaseModel):
    """A section of a result: the fields that are named here, and all others (`more`)."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    @property
    def more(self) -> Mapping[str, Any]:
        return self.model_extra or {}

    def content(self) -> dict[str, Any]:
        """The section as in result.json, with only the fields that were given."""
        return self.model_dump(by_alias=True, exclude_unset=True)


class Model(Part):
    """A model's name and dtype. `more` holds its origin: hashes, revisions, paths."""

    name: Text = None
    dtype: Text = None


class Dataset(Part):
    """The dataset: its name, its texts and their sha256."""

    name: Text = None
    calibration: Text = None
    evaluation: Text = None
    calibration_sha256: Text = None
    evaluation_sha256: Text = None


class Calibration(Part):
    """The calibration text. Its options are in `more`."""

    tokens: Number = None
    block_forwards: Number = None  # forward passes of a block on a batch


class Leakage(Part):
    """The calibration tokens that the evaluation text contains too."""

    span: Number = None
    tokens: Number = None
    shared: Number = None
    share: Number = None


class Perplexity(Part):
    """The perplexities of both models."""

    dense: Number = None
    pruned: Number = None


class Sparsity(Part):
    """The sparsity: `asked` and `found` are fractions of the pruned layers' weights; `found` is counted in the model."""

    asked: Number = None
    found: Number = None
    weights: Number = None
    zeros: Number = None
    layers: Number = None


class Layers(Part):
    """Numbers of layers, and means over the pruned ones; the means of a corrector's facts are in `more`."""

    pruned: Number = None
    all: Number = None
    error_before_mean: Number = None
    relative_error_mean: Number = None
    held_out_error_mean: Number = None


class Blocks(Part):
    """The blocks that a refinement tuned. `more` holds means over them."""

    refined: Number = None


class Needed(Part):
    """The resources that were predicted before the run computed anything."""

    memory_bytes: Number = None
    disk_bytes: Number = None


class Process(Part):
    """One of the processes that shared the run."""

    peak_memory_bytes: Number = None


class Result(Part):
    """A finished run. A field that is None, or an empty section, was not measured or not recorded."""

    version: int = Field(SCHEMA, alias="schema")
    run_key: Text = None
    name: Text = None
    command: Text = None
    overrides: Annotated[list[Any], Listed] = []
    choices: Texts = {}  # group -> option
    composition: Texts = {}  # group -> the constructor call of its component
    model: Annotated[Model, Section, Named] = Model()
    reference: Annotated[Model | None, Maybe, Named] = None  # the other model that the pruned one was compared with
    dataset: Annotated[Dataset, Section] = Dataset()
    calibration: Annotated[Calibration, Section] = Calibration()
    leakage: Annotated[Leakage | None, Maybe] = None
    perplexity: Annotated[Perplexity, Section] = Perplexity()
    evaluation: Mappings = {}  # evaluator -> its summary
    sparsity: Annotated[Sparsity, Section] = Sparsity()
    layers: Annotated[Layers, Section] = Layers()
    blocks: Annotated[Blocks, Section] = Blocks()
    recovery: Numbers = {}
    seconds: Numbers = {}  # by stage, in the order of the stages
    resumed: Annotated[list[Any], Listed] = []  # blocks at which the run was resumed
    peak_memory_bytes: Number = None
    needed: Annotated[Needed, Section] = Needed()
    processes: Annotated[list[Annotated[Process, Section]], Listed] = []
    peak_device_memory_bytes: Number = None
    keep_sha256: Text = Field(None, alias="mask_sha256")  # the sha256 over all masks
    measures: Annotated[tuple[Measure, ...], BeforeValidator(_measures)] = ()

    @classmethod
    def of(cls, sections: Mapping[str, Any], declared: Iterable[Measure] = ()) -> Result:
        """The result of a run whose stages found `sections`, the top-level keys of result.json.

        `declared`: the measures that the stages declare. Numbers without a measure get theirs from `known`.
        Raises `ValueError` for a section that does not fit its type, so that no number is lost unnoticed.
        """
        measures = {measure.name: measure for measure in stated({**sections, "evaluation": None})}
        measures |= {measure.name: measure for measure in declared}
        result = cls.model_validate({**sections, "schema": SCHEMA, "measures": [*measures.values()]})
        content = result.to_json()
        for name, section in sections.items():
            if content.get(name) != section:
                raise ValueError(
                    f"the result's {name} is {section!r}: expected finite numbers and text, as in {content[name]!r}"
                )
        return result

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = RESULT) -> Result:
        """The result that a result.json of this version or an older one holds. `where`: the file, for messages.

        Raises `UserError` for a newer schema and for invalid measures.
        """
        content = upgraded(content, where)
        try:
            return cls.model_validate(content)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{where} is no result ({reason}): expected what a run wrote. Run it again") from error

    def to_json(self) -> dict[str, Any]:
        """The content of result.json."""
        return self.content() | {"measures": [measure.to_json() for measure in self.measures]}

    def measure(self, name: str) -> Measure | None:
        """The measure of this name, such as "perplexity.pruned"; None if it was not measured."""
        return next((measure for measure in self.all_measures if measure.name == name), None)

    @property
    def all_measures(self) -> tuple[Measure, ...]:
        """The measures, and two derived ones: the rise of the perplexity, and the seconds of all stages."""
        dense, pruned = self.perplexity.dense, self.perplexity.pruned
        derived = []
        if dense and pruned is not None and is_number(rise := pruned / dense - 1):
            derived.append(Measure("rise", rise, "change", "smaller", "rise", 1))
        if self.seconds:
            derived.append(Measure("seconds.total", self.total_seconds, "s", "smaller", "time", 0))
        return (*self.measures, *derived)

    @property
    def total_seconds(self) -> float:
        return sum(seconds or 0.0 for seconds in self.seconds.values())

    def numbers(self, *sections: str, separator: str = ".") -> dict[str, int | float]:
        """Every number of these sections by its path, "perplexity.pruned"."""
        content = self.to_json()
        return dict(numbers({name: content.get(name) for name in sections}, separator))

    def findings(self) -> list[str]:
        """The sections that are findings: all but the settings that a result repeats, and the measures."""
        return [name for name in self.to_json() if name not in ("schema", "calibration", "resumed", "measures")]


def evaluated(found: Mapping[str, Measured]) -> list[Measure]:
    """The measures of all evaluators, named by their paths in result.json. For one that declares none, all its numbers."""
    measures: list[Measure] = []
    for name, measured in found.items():
        if not measured.measures:
            measures += unstated(name, measured.summary)
        for measure in measured.measures:
            # the perplexity of both models has a section of its own
            own = name == "perplexity" and measure.name in Perplexity.model_fields
            measures.append(measure.under("perplexity" if own else f"evaluation.{name}"))
    return measures


def read(folder: Path) -> Result | None:
    """The result of a run's folder; None if it is unfinished. Raises `UserError` if it cannot be read."""
    content = read_result(folder / RESULT)
    return None if content is None else Result.from_json(content, str(folder / RESULT))

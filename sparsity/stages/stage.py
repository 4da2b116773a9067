"""The protocol of a stage of a run.

A stage is a frozen value without state: it stores its results in `Work` or returns them. Its methods are called in this order:

    check    raises mistakes in the options, before anything is loaded
    cost     predicts memory, disk and operations, from shapes alone
    before   returns what it needs of the dense model, before any stage changes it
    do       does its work and returns `Found`: its part of result.json, its tables, its measures

All processes of a run call the same stages. If `shared` is False, only the first process calls it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..engine import Plan
from ..measures import Measure
from ..models import Decoder
from ..options.components import Parts
from ..options.settings import Settings
from .job import Job
from .sizes import Shapes, shapes

if TYPE_CHECKING:
    from .work import Work

K = TypeVar("K")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """The memory and disk in bytes and the operations that a stage will need."""

    held: Mapping[str, int] = field(default_factory=dict)  # memory held from the first stage to the last
    peaks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # memory held in addition, by step
    disk: Mapping[str, int] = field(default_factory=dict)
    operations: Mapping[str, int] = field(default_factory=dict)
    moved: int = 0  # bytes that are read from the model's files


@dataclass(frozen=True)
class Found:
    """The results of a stage."""

    sections: Mapping[str, Any] = field(default_factory=dict)  # parts of result.json; mappings of one name are merged
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # rows by the name of their CSV file
    # named by their paths in result.json; record.known describes the numbers that are not declared here
    measures: Sequence[Measure] = ()


@dataclass(frozen=True)
class Outlook:
    """The facts of a run before it computes. Stages may use only the shapes of the model."""

    settings: Settings
    parts: Parts
    decoder: Decoder
    plan: Plan
    tokens: int = 0  # number of tokens of the evaluation text; 0 if it is not known
    streamed: bool = False  # the model's blocks stay in their files
    sweep: bool = False  # the run is a point of a sweep

    @cached_property
    def shapes(self) -> Shapes:
        return shapes(self.decoder)


class Stage(Protocol[K]):
    """A stage of a run, as the module describes it. `K`: what `before` returns and `do` gets."""

    @property
    def name(self) -> str: ...

    @property
    def clocks(self) -> Sequence[str]:
        """The names under which its seconds are counted, in the order of result.json. A stage with several counts them itself."""
        ...

    @property
    def shared(self) -> bool:
        """True if every process takes part."""
        ...

    def check(self, job: Job) -> None:
        """Raise `UserError` for a mistake in the options. May print hints for the user."""
        ...

    def cost(self, outlook: Outlook) -> Cost: ...

    def before(self, work: Work) -> K:
        """Return what it needs of the dense model. Called when text and model are loaded, before any weight changes."""
        ...

    def do(self, work: Work, known: K) -> Found: ...


@dataclass(frozen=True)
class Plain:
    """The defaults of a stage: every process takes part; no option is wrong, nothing is needed, and nothing costs anything."""

    name = ""
    shared = True

    @property
    def clocks(self) -> Sequence[str]:
        return (self.name,)

    def check(self, job: Job) -> None:
        """Raises nothing: no option can be wrong."""

    def cost(self, outlook: Outlook) -> Cost:
        return Cost()

    def before(self, work: Work) -> Any:
        """Return None: nothing of the dense model is needed."""
        return None

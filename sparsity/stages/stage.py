"""What a stage of a run is.

A stage is a frozen value without state: what it learns it hands on through `Work`, or returns. It is asked five things, in this
order:

    check    mistakes in the options, before anything is loaded
    cost     the memory, the disk and the operations that it will take, from shapes alone
    before   what it must know of the dense model, which the next stages change
    do       its work
    (found)  what `do` returns: its part of result.json, its tables, its measures

All processes of a run call the same stages. A stage that only one process can do says so (`shared` is False): the first one
does it.
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
    """What a stage will hold, write and compute. Bytes, and operations."""

    held: Mapping[str, int] = field(default_factory=dict)  # memory, from the first stage to the last
    peaks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # and besides, while something is done
    disk: Mapping[str, int] = field(default_factory=dict)
    operations: Mapping[str, int] = field(default_factory=dict)
    moved: int = 0  # bytes of the model's files that are read


@dataclass(frozen=True)
class Found:
    """What a stage found."""

    sections: Mapping[str, Any] = field(default_factory=dict)  # parts of result.json; mappings of one name are merged
    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)  # rows by the name of their CSV file
    # by their paths in result.json; numbers that are not declared here are looked up in record.known
    measures: Sequence[Measure] = ()


@dataclass(frozen=True)
class Outlook:
    """What is known of a run before it computes. Of the model, stages look at shapes alone."""

    settings: Settings
    parts: Parts
    decoder: Decoder
    plan: Plan
    tokens: int = 0  # of the evaluation text; 0 if it is not known
    streamed: bool = False  # the model's blocks stay in their files
    sweep: bool = False  # the run is a point of a sweep

    @cached_property
    def shapes(self) -> Shapes:
        return shapes(self.decoder)


class Stage(Protocol[K]):
    @property
    def name(self) -> str: ...

    @property
    def clocks(self) -> Sequence[str]:
        """The names under which its seconds are counted, in the order of result.json. A stage with several counts them itself."""
        ...

    @property
    def shared(self) -> bool:
        """Whether every process takes part."""
        ...

    def check(self, job: Job) -> None:
        """Raise `UserError` for a mistake in the options; say what the user would want to know."""
        ...

    def cost(self, outlook: Outlook) -> Cost: ...

    def before(self, work: Work) -> K:
        """Return what it must know of the dense model. Called once text and model are there, before any weight changes."""
        ...

    def do(self, work: Work, known: K) -> Found: ...


@dataclass(frozen=True)
class Plain:
    """A stage that every process takes part in, without mistakes, costs, and needs of its own, until it says otherwise."""

    name = ""
    shared = True

    @property
    def clocks(self) -> Sequence[str]:
        return (self.name,)

    def check(self, job: Job) -> None:
        """No option can be wrong."""

    def cost(self, outlook: Outlook) -> Cost:
        return Cost()

    def before(self, work: Work) -> Any:
        """Nothing of the dense model is needed."""
        return None

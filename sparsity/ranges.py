"""The ranges of options, which are declared where their types are.

An option has a range in its annotation, `quantile: Annotated[float, Range(least=0, most=1)]`, or by a name, `seed: Seed`.
One function, `fits`, compares a value with its type and range. It is called twice: when a component is made, also in a notebook
(`checked`), and when the options of a run are read, before any component is made; then the message has the option's full path. NaN
and infinity are refused, unless a range says that infinity means something.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from .user_error import UserError

T = TypeVar("T")


class Refused(UserError):
    """Options that must not have these values, alone or together. The message says what was expected."""

    def __init__(self, values: Mapping[str, Any], expected: str, path: str = ""):
        """`path`: the place of the options, such as "method.routes.mlp"; "" for a component that is made in a notebook."""
        self.values, self.expected = dict(values), expected
        got = " and ".join(f"{f'{path}.{name}' if path else name}={written(value)}" for name, value in values.items())
        super().__init__(f"{got} {'is' if len(values) == 1 else 'are'} not valid: expected {expected}")

    def under(self, path: str) -> Refused:
        """This error with the place of the options in its message."""
        return Refused(self.values, self.expected, path)


@dataclass(frozen=True)
class Range:
    """A range of allowed numbers."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    multiple: int | None = None  # only multiples of this number are allowed
    cap: float | None = None  # a larger number is a typing mistake: time or memory would be unlimited
    such: float | None = None  # an example for messages
    finite: bool = True  # False: infinity means something; NaN never does

    def __contains__(self, number: float) -> bool:
        number = number if isinstance(number, int) else float(number)  # numpy's float32 cannot hold the limit
        limit = sys.float_info.max if self.finite else float("inf")  # math.isfinite fails for 10**400
        return (
            -limit <= number <= limit
            and (self.multiple is None or number % self.multiple == 0)
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
            and (self.cap is None or number <= self.cap)
        )

    def said(self, value: Any) -> str:
        """The range in words. The cap is named only if the value is above it."""
        over = self.cap if self.cap is not None and isinstance(value, int | float) and value > self.cap else None
        ends = {">=": self.least, ">": self.above, "<=": self.most if over is None else over, "<": self.below}
        said = [f"{sign} {written(end)}" for sign, end in ends.items() if end is not None]
        multiple = [] if self.multiple is None else [f"a multiple of {self.multiple}"]
        such = "" if self.such is None else f", such as {written(self.such)}"
        return f" {', '.join([' and '.join(said), *multiple])}{such}".rstrip()


@dataclass(frozen=True)
class Text:
    """A range of allowed strings: those that match the whole pattern. `words`: the range in words."""

    pattern: str
    words: str

    def __contains__(self, text: str) -> bool:
        return re.fullmatch(self.pattern, text, re.DOTALL) is not None

    def said(self, value: Any) -> str:
        return f" ({self.words})"


@dataclass(frozen=True)
class Filled:
    """The range of lists that are not empty."""

    def __contains__(self, values: Sequence[Any]) -> bool:
        return len(values) > 0

    def said(self, value: Any) -> str:
        return ", with one entry at least"


# The names of common ranges.
Count = Annotated[int, Range(least=1, cap=10**9, such=8)]
CountOrZero = Annotated[int, Range(least=0, cap=10**9, such=8)]
Steps = Annotated[int, Range(least=1, cap=10**5, such=10)]  # the steps of a loop
StepsOrZero = Annotated[int, Range(least=0, cap=10**5, such=10)]
Tokens = Annotated[int, Range(least=2, cap=2**20, such=512)]  # of a sequence: one to predict from, one to predict
Seed = Annotated[int, Range(least=-(2**63), most=2**63 - 1, such=0)]  # seeds of torch.Generator in int64
NotNegative = Annotated[float, Range(least=0, cap=10**9, such=0.1)]
Share = Annotated[float, Range(above=0, most=1, such=0.1)]
Ridge = Annotated[float, Range(least=0, cap=10**6, such=0.01)]  # `linalg.retry` stops above this cap
Sparsity = Annotated[float, Range(least=0, below=1, such=0.5)]
Exponent = Annotated[float, Range(least=-10, most=10, such=1.0)]


def checked(cls: type[T]) -> type[T]:
    """A decorator, to be written below `@dataclass`: checks the options of each new object before its own `__post_init__` runs.

    A class that inherits from it is checked too, with its own fields.
    """
    then = getattr(cls, "__post_init__", None)

    def check(self: Any) -> None:
        kinds = options(self.__class__)
        for field in fields(self):
            value, kind = getattr(self, field.name), kinds[field.name]
            if not fits(value, kind):
                raise Refused({field.name: value}, words(kind, value))
        if then is not None:
            then(self)

    cls.__post_init__ = check  # type: ignore[attr-defined]
    return cls


@cache
def options(cls: type) -> Mapping[str, Any]:
    """The annotations of a class's options, by name. Raises `NameError` for names that only a type checker sees."""
    kinds = get_type_hints(cls, include_extras=True)
    if not is_dataclass(cls):  # a dataclass's constructor cannot resolve the names in inherited annotations
        kinds |= get_type_hints(cast(Any, cls).__init__, include_extras=True)
    return kinds


def fits(value: Any, kind: Any) -> bool:
    """True if the value has this type and is in its range. A component's configuration always fits: its class checks it later."""
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        plain, *ranges = parts
        typed = _is_number(value, Real) if plain is float else fits(value, plain)
        return typed and all(value in allowed for allowed in ranges if isinstance(allowed, Range | Text | Filled))
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(inner, parts[1]) for inner in value.values())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and all(fits(inner, parts[0]) for inner in value)
    if kind is float:
        return _is_number(value, Real) and value in Range()
    if kind is int:
        return _is_number(value, Integral)
    if not isinstance(kind, type) or kind is Any or is_typeddict(kind):
        return True
    if getattr(kind, "_is_protocol", False):
        return not isinstance(value, NoneType | bool | int | float | str | list | tuple | Mapping)
    return isinstance(value, kind)


def _is_number(value: Any, kind: type) -> bool:
    """True for a number of this kind, but not a bool. A whole number for a float must fit into torch's int64."""
    if isinstance(value, bool) or not isinstance(value, kind):
        return False
    return kind is Integral or not isinstance(value, int) or abs(value) < 2**63


def words(kind: Any, value: Any = None) -> str:
    """A description of the allowed values, for messages and for help. `value`: a value that is not allowed."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        ranges = [allowed for allowed in parts[1:] if isinstance(allowed, Range | Text | Filled)]
        return words(parts[0]) + "".join(allowed.said(value) for allowed in ranges)
    if origin in (Union, UnionType):
        return ", or ".join(words(part, value) for part in parts)
    if origin is Literal:
        *others, last = map(written, parts)
        return f"{', '.join(others)} or {last}" if others else last
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return "a list, such as [one,two]" + ("" if parts[0] is str else f", of {words(parts[0])}")
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return plain.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def written(value: Any) -> str:
    """The value as it is written on the command line, shortened if it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

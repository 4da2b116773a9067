"""A measure: one number that a run measured, with its name, unit and direction. The code that measures a number declares it.

Trackers, tables, terminals and reports show measures and compare runs by `better`, without knowing any number by its name.
Units in use: "" (none), "fraction" (shown in percent), "change" (a fraction with its sign), "s", "bytes", "nats", "tokens",
"tokens/s". Any other unit is shown unchanged after the number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Better = Literal["smaller", "larger"]
BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Measure:
    """A finite number and the way to show it. Raises `ValueError` for a value that is not finite and an unknown direction."""

    name: str  # the dotted path of the number in result.json: "perplexity.pruned"; an evaluator's begin in its own summary: "kl"
    value: int | float
    unit: str = ""
    better: Better | None = None  # None: no direction is better, or it is unknown
    heading: str = ""  # of a column or a row; "" for the words of the name
    digits: int = 2  # after the decimal point, where a number is shown
    folded: bool = False  # shown on request only
    error: float | None = None  # standard error of the value, in its unit

    def __post_init__(self) -> None:
        if isinstance(self.value, bool) or not isinstance(self.value, int | float) or not math.isfinite(self.value):
            raise ValueError(
                f"measure {self.name} is {self.value!r}: expected a finite number. Leave it out if unknown"
            )
        if self.better not in ("smaller", "larger", None):
            raise ValueError(f"measure {self.name} has better={self.better!r}: expected 'smaller', 'larger' or None")

    @property
    def title(self) -> str:
        """The heading, or the words of the name."""
        return self.heading or self.name.removeprefix("evaluation.").replace(".", " ").replace("_", " ")

    def under(self, path: str) -> Measure:
        """This measure with `path` before its name."""
        return replace(self, name=f"{path}.{self.name}")

    def told(self) -> str:
        """The value in words with its unit, and with its standard error if that is known."""
        error = "" if self.error is None else f" ± {said(self.error, self.unit, self.digits)}"
        return said(self.value, self.unit, self.digits) + error

    def to_json(self) -> dict[str, Any]:
        """The JSON form: name, value, unit and direction, and the other fields if they differ from their defaults."""
        plain = {"name": self.name, "value": self.value, "unit": self.unit, "better": self.better}
        rest = {"heading": self.heading, "digits": self.digits, "folded": self.folded, "error": self.error}
        defaults = {"heading": "", "digits": 2, "folded": False, "error": None}
        return plain | {key: value for key, value in rest.items() if value != defaults[key]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measure:
        """The measure in JSON that `to_json` returned. Raises `ValueError` for anything else."""
        try:
            return cls(**content)
        except TypeError as error:
            raise ValueError(f"{dict(content)} is no measure: {error}") from error


def both(
    name: str,
    dense: int | float | None,
    pruned: int | float | None,
    unit: str = "",
    better: Better | None = None,
    heading: str = "",
    digits: int = 2,
    folded: bool = False,
    errors: Mapping[str, float] | None = None,
) -> list[Measure]:
    """A measure of each model, "dense.<name>" (folded) and "pruned.<name>". A value of None is left out.

    `errors`: standard errors by "dense" and "pruned".
    """
    shown, errors = heading or name.replace(".", " ").replace("_", " "), errors or {}
    given = (("dense", dense, f"{shown} dense", True), ("pruned", pruned, shown, folded))
    return [
        Measure(f"{which}.{name}", value, unit, better, title, digits, hidden, errors.get(which))
        for which, value, title, hidden in given
        if value is not None
    ]


def said(value: float, unit: str = "", digits: int = 2) -> str:
    """A number with its unit, as it is shown: "50.00%", "1.10 GiB", "+62.4%", "12.3 s"."""
    if unit == "fraction":
        return f"{value:.{digits}%}"
    if unit == "change":
        return f"{value:+.{digits}%}"
    if unit == "bytes":
        power = min(max((int(abs(value)).bit_length() - 1) // 10, 0), len(BINARY) - 1)
        return f"{value / 1024**power:.{2 if power else 0}f} {BINARY[power]}"
    number = f"{value:,.{digits}f}" if digits == 0 else f"{value:.{digits}f}"
    return f"{number} {unit}" if unit else number

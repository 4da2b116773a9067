"""What an option may be is said where its type is, and compared with it by one question: in a notebook and at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from sparsity.allocation import Owl
from sparsity.core import Criterion, Method, UserError
from sparsity.methods import ADMM, Pursuit, Route, SparseGPT, Swaps, TfIdf, Wanda
from sparsity.options.settings import check_arguments
from sparsity.patterns import NofM, Unstructured
from sparsity.ranges import Count, Filled, Range, Refused, Ridge, Seed, Share, Text, checked, fits, options, words
from sparsity.refine import BlockTuning

HALF_OPEN = Annotated[float, Range(least=0, below=1)]

FITTING: list[tuple[Any, Any]] = [
    (0, HALF_OPEN),
    (0.0, HALF_OPEN),
    (1 - 2**-53, HALF_OPEN),
    (np.float64(0.5), HALF_OPEN),
    (np.float32(0.5), HALF_OPEN),
    (1, Share),
    (1, Count),
    (np.int64(3), Count),
    (2**63 - 1, Seed),
    (-(2**63), Seed),
    (0.1, float),
    (7, float),
    (math.inf, Annotated[float, Range(least=0, finite=False)]),
    (64, Annotated[int, Range(least=8, multiple=8)]),
    (None, Count | None),
    ("optimal", HALF_OPEN | Literal["optimal"]),
    (True, Literal["auto"] | bool),
    (["a"], Sequence[str]),
    (("a",), list[str]),
    ([], list[str]),
    ({"a": 1}, Mapping[str, Count]),
    ("a-b", Annotated[str, Text(r"[a-z-]+", "letters")]),
    (Wanda("row"), Method),
    (Wanda("row"), Criterion),
    ({"_target_": "of.any.class"}, Method),
    ({"mlp": {"_target_": "of.any.class"}}, Mapping[str, Method]),
    (object(), Any),
]
WRONG: list[tuple[Any, Any, str]] = [
    (1, HALF_OPEN, "a number >= 0 and < 1"),
    (-0.1, HALF_OPEN, "a number >= 0 and < 1"),
    (math.nan, HALF_OPEN, "a number >= 0 and < 1"),
    (math.inf, HALF_OPEN, "a number >= 0 and < 1"),
    (10**400, HALF_OPEN, "a number >= 0 and < 1"),
    ("0.5", HALF_OPEN, "a number >= 0 and < 1"),
    (True, HALF_OPEN, "a number >= 0 and < 1"),
    (None, HALF_OPEN, "a number >= 0 and < 1"),
    ([0.5], HALF_OPEN, "a number >= 0 and < 1"),
    (0, Share, "a number > 0 and <= 1, such as 0.1"),
    (math.inf, float, "a number"),
    (-math.inf, float, "a number"),
    (math.nan, float, "a number"),
    (10**23, float, "a number"),  # torch would take an int64 of it
    (math.nan, Annotated[float, Range(least=0, finite=False)], "a number >= 0"),
    (1.0, Count, "a whole number >= 1, such as 8"),
    (0, Count, "a whole number >= 1, such as 8"),
    (True, Count, "a whole number >= 1, such as 8"),
    (10**12, Count, "a whole number >= 1 and <= 1000000000, such as 8"),  # the cap is said to whom it concerns
    (math.inf, Ridge, "a number >= 0 and <= 1000000, such as 0.01"),
    (2**63, Seed, f"a whole number >= {-(2**63)} and <= {2**63 - 1}, such as 0"),
    (20, Annotated[int, Range(least=8, multiple=8, such=64)], "a whole number >= 8, a multiple of 8, such as 64"),
    (0, Count | None, "a whole number >= 1, such as 8, or null"),
    ("best", HALF_OPEN | Literal["optimal"], "a number >= 0 and < 1, or optimal"),
    ("rows", Literal["row", "layer"], "row or layer"),
    (1, Literal[True], "true"),
    ("maybe", bool, "true or false"),
    ("mlp", list[Literal["mlp", "head"]], "a list, such as [one,two], of mlp or head"),
    (["mpl"], list[Literal["mlp", "head"]], "a list, such as [one,two], of mlp or head"),
    ("abc", Sequence[str], "a list, such as [one,two]"),
    ([], Annotated[list[str], Filled()], "a list, such as [one,two], with one entry at least"),
    ({"a": 0}, Mapping[str, Count], "a Mapping"),
    ("a b", Annotated[str, Text(r"[a-z-]+", "letters")], "text (letters)"),
    (5, Method, "a Method"),
    (None, Method, "a Method"),
    ("wanda", Criterion, "a Criterion"),
    ("x", Path, "a Path"),
]


@pytest.mark.parametrize(("value", "kind"), FITTING)
def test_what_fits(value, kind):
    assert fits(value, kind)


@pytest.mark.parametrize(("value", "kind", "expected"), WRONG)
def test_what_does_not_fit_and_what_was_expected(value, kind, expected):
    assert not fits(value, kind)
    assert words(kind, value) == expected


# --- when a component is made -----------------------------------------------------------------------------------------


def test_the_short_forms_of_a_notebook():
    assert Wanda("row") == Wanda(scope="row")
    assert NofM(2, 4) == NofM(n=2, m=4)
    assert Swaps(Wanda("row"), 20, 16).base == Wanda("row")


ADMM_OPTIONS = {"scope": "layer", "iterations": 20, "gradual": 5, "held": 5, "metric": "norm", "damp": 0.1, "rho": 1.0}
TFIDF = TfIdf(1.0, 1.0, 0.5, 0.0, 0.6, True, None, 32, "hidden", 0)
REFUSED: list[tuple[Any, str]] = [
    (lambda: Wanda("rows"), "scope=rows is not valid: expected row or layer"),
    (lambda: Unstructured(math.nan), "sparsity=nan is not valid: expected a number >= 0 and < 1, such as 0.5"),
    (lambda: ADMM(**ADMM_OPTIONS | {"rho": math.inf}), "rho=inf is not valid: expected a number > 0"),
    (lambda: ADMM(**ADMM_OPTIONS | {"iterations": 10**12}), "iterations=1000000000000 is not valid"),
    (lambda: SparseGPT("layer", math.nan, 128), "damp=nan is not valid"),
    (lambda: SparseGPT("layer", 0.01, 0), "width=0 is not valid"),
    (lambda: replace(TFIDF, idf_exp=math.nan), "idf_exp=nan is not valid"),
    (lambda: Pursuit(None, 6, 5, 0.1, 0.01), "base=null is not valid: expected a Method"),
    (lambda: Route({"mlp": "wanda"}), "routes={'mlp': 'wanda'} is not valid"),
    (lambda: Owl("leaf", 5, 0.08), "unit=leaf is not valid: expected block, role or layer"),
    # inherited options, and its own, of a class in another file
    (lambda: BlockTuning(0, 0.001, 0.125, 2, 0, "dense"), "epochs=0 is not valid"),
    (lambda: BlockTuning(8, 0.001, 0.125, 2, 0, "other"), "target=other is not valid: expected own or dense"),
    # what goes together: the constructor's own affair, after each option for itself
    (lambda: NofM(5, 4), "n=5 and m=4 are not valid: expected n <= m"),
    (lambda: NofM("a", 4), "n=a is not valid"),
    (lambda: ADMM(**ADMM_OPTIONS | {"held": 16}), "gradual=5 and held=16 and iterations=20 are not valid"),
    (lambda: replace(TFIDF, num_topics=4, seed=-1), "seed=-1 is not valid: expected a whole number >= 0"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_a_component_is_checked_when_it_is_made(make, message):
    with pytest.raises(UserError) as refused:
        make()
    assert str(refused.value).startswith(message)


# --- at the door ------------------------------------------------------------------------------------------------------


def test_a_message_has_the_full_path_and_all_that_is_wrong():
    with pytest.raises(UserError) as refused:
        check_arguments("method.routes.mlp", SparseGPT, {"scope": "rows", "damp": math.nan, "width": 128})
    assert str(refused.value) == (
        "method.routes.mlp.scope=rows is not valid: expected row or layer; "
        "method.routes.mlp.damp=nan is not valid: expected a number >= 0, such as 0.01"
    )


def test_a_refusal_that_does_not_know_its_path_is_told():
    refused = Refused({"n": 5, "m": None}, "n <= m")
    assert str(refused) == "n=5 and m=null are not valid: expected n <= m"
    assert str(refused.under("pattern")) == "pattern.n=5 and pattern.m=null are not valid: expected n <= m"


def test_a_value_that_is_long_is_said_in_short():
    assert len(str(Refused({"name": "x" * 10_000}, "a name"))) < 200


@dataclass(frozen=True)
class Plain:
    """A user's own, with plain annotations: its types are checked, and that numbers are numbers."""

    strength: float
    rounds: int = 3


@dataclass(frozen=True)
class Ranged:
    """A user's own that says its ranges, and is no dataclass of ours."""

    strength: Annotated[float, Range(above=0, most=2)]
    inner: Method


class Written:
    """A user's own with a constructor of its own."""

    def __init__(self, strength: Share, whatever):
        self.strength = strength


OWN: list[tuple[type, dict[str, Any], str | None]] = [
    (Plain, {"strength": 1e30}, None),
    (Plain, {"strength": math.nan}, "m.strength=nan is not valid: expected a number"),
    (Plain, {"strength": 1.0, "rounds": 1.5}, "m.rounds=1.5 is not valid: expected a whole number"),
    (Ranged, {"strength": 2, "inner": {"_target_": "sparsity.methods.Wanda", "scope": "row"}}, None),
    (
        Ranged,
        {"strength": 3, "inner": {"_target_": "x.Y"}},
        "m.strength=3 is not valid: expected a number > 0 and <= 2",
    ),
    (Ranged, {"strength": 1, "inner": "wanda"}, "m.inner=wanda is not valid: expected a Method"),
    (Written, {"strength": 1, "whatever": object()}, None),
    (Written, {"strength": 0, "whatever": 1}, "m.strength=0 is not valid: expected a number > 0 and <= 1"),
]


@pytest.mark.parametrize(("cls", "arguments", "message"), OWN)
def test_a_class_of_the_users_own_is_checked_at_the_door(cls, arguments, message):
    if message is None:
        check_arguments("m", cls, arguments)
        return
    with pytest.raises(UserError) as refused:
        check_arguments("m", cls, arguments)
    assert str(refused.value).startswith(message)


def test_the_check_comes_before_what_a_class_says_of_options_together():
    seen = []

    @dataclass(frozen=True)
    @checked
    class Both:
        low: float
        high: float

        def __post_init__(self) -> None:
            seen.append((self.low, self.high))

    globals()["Both"] = Both
    Both(1.0, 2.0)
    with pytest.raises(UserError, match="high=null is not valid"):
        Both(1.0, None)
    assert seen == [(1.0, 2.0)]
    assert [*options(Both)] == ["low", "high"]

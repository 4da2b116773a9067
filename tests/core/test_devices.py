"""The device of a result is that of its inputs. Without a GPU: the tensor functions run on `meta` tensors in torch's fake mode,
where a CPU tensor that was made by accident raises when it meets one of them. tests/core/test_cuda.py has the walk on a real GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import architectures as zoo
import pytest
import torch
from composing import OPTIONS
from contract import assembled
from problems import SITE
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparsity import evaluation, linalg, quadratic, statistics
from sparsity.core import Criterion, Folded, Layer, Pattern, Pruned, Scope, Stats
from sparsity.evaluation.perplexity import nll
from sparsity.groupings import Documents
from sparsity.patterns import NofM, Unstructured
from sparsity.patterns.unstructured import keep_largest
from sparsity.statistics import Activity, Gram, GroupedActivity, Moments, SquaredNorm

O, I = 6, 16
DTYPES = [torch.float32, torch.bfloat16]
HALF = Unstructured(0.5)


# --- the fake device --------------------------------------------------------------------------------------------------


class ReadsZero(TorchDispatchMode):
    """Reading a number from a tensor gives 0, because `meta` tensors hold none; for LAPACK's `info`, 0 means success."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            self.reads += 1
            return 0
        return func(*args, **(kwargs or {}))


@contextmanager
def elsewhere() -> Iterator[ReadsZero]:
    """Tensors made by `away` live on a device that is not the CPU."""
    with FakeTensorMode(), ReadsZero() as zeros:
        yield zeros


def away(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def shapes(value: Any) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """The shape and dtype of every tensor in the value. No tensor may be on the CPU."""
    found = list(tensors(value))
    assert all(isinstance(tensor, FakeTensor) and tensor.device.type == "meta" for tensor in found), value
    return [(tuple(tensor.shape), tensor.dtype) for tensor in found]


def pure(call: Callable[[], Any]) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """The shapes and dtypes of what `call` returns, if it made no tensor on the CPU and read no number off one."""
    with elsewhere() as zeros:
        found = shapes(call())
    assert zeros.reads == 0, "reads numbers off its tensors: a branch on data belongs elsewhere"
    return found


PLANTED: dict[str, Callable[[], Any]] = {
    "adds a CPU tensor": lambda: away(I) + torch.ones(I),
    "multiplies by one": lambda: away(O, I) @ torch.eye(I),
    "returns one": lambda: torch.zeros(I),
    "returns one of two": lambda: (away(I), torch.zeros(I)),
    "moves to the CPU": lambda: away(I).cpu(),
    "writes into one": lambda: torch.zeros(I).add_(away(I)),
    "branches on data": lambda: away(I) if away(I).sum() > 0 else away(O),
    "reads a number": lambda: away(I) * away(1).item(),
    "makes a list": lambda: away(I) * away(I).tolist()[0],
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_caught(name):
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        pure(PLANTED[name])


def test_innocent_functions_pass():
    found = pure(lambda: (away(O, I) * torch.ones(I, device="meta"), away(I).bool().logical_not(), 3))
    assert found == [((O, I), torch.float32), ((I,), torch.bool)]


# --- linalg and quadratic ---------------------------------------------------------------------------------------------

F32, F64, BF16, INFO, BOOL = torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.bool
GRAM_32 = ((I, I), F32)


def sweep(width: int, group: int | None, pattern: Pattern, scope: Scope) -> tuple[Callable[[], Any], list[Any]]:
    choose = partial(pattern.keep, scope=scope)
    return lambda: linalg.obs_sweep(away(O, I), away(I, I), choose, width, group), [((O, I), F32), ((O, I), BOOL)]


# function -> a call on the fake device, and the shapes and dtypes that it returns
LINALG: dict[str, list[tuple[Callable[[], Any], list[Any]]]] = {
    "kth_smallest": [
        (lambda dtype=dtype: linalg.kth_smallest(away(O, I, dtype=dtype), 3), [((O, 1), dtype)]) for dtype in DTYPES
    ],
    "row_dot": [(lambda: linalg.row_dot(away(O, I), away(O, I)), [((O,), F32)])],
    "layer_loss": [
        (lambda: linalg.layer_loss(away(I, I), away(O, I)), [((), F32)]),
        (lambda: linalg.layer_loss(away(I, I), away(O, I, dtype=BF16)), [((), F32)]),
        (lambda: linalg.layer_loss(away(I, I, dtype=F64), away(O, I)), [((), F64)]),
    ],
    "relative_error": [
        (lambda: linalg.relative_error(away(I, I), away(O, I), away(O, I)), [((), F32)]),
        (lambda: linalg.relative_error(away(I, I), away(O, I, dtype=BF16), away(O, I, dtype=BF16)), [((), F32)]),
    ],
    "dead": [(lambda: linalg.dead(away(I, I)), [((I,), BOOL)])],
    "living": [(lambda: linalg.living(away(I, I)), [GRAM_32])],
    "damped": [
        (lambda: linalg.damped(away(I, I), 0.01), [GRAM_32]),
        (lambda: linalg.damped(away(I, I), 0.01, away(1)[0]), [GRAM_32]),
    ],
    "upper_inverse": [(lambda: linalg.upper_inverse(away(300, 300)), [((300, 300), F32)])],
    "inverse_factor": [
        (lambda: linalg.inverse_factor(away(I, I)), [GRAM_32, ((), INFO)]),
        (lambda: linalg.inverse_factor(away(I, I, dtype=F64)), [((I, I), F64), ((), INFO)]),
    ],
    "pieces": [(lambda: list(linalg.pieces(away(600, I), F64)), [((256, I), F64), ((256, I), F64), ((88, I), F64)])],
    "double": [(lambda: linalg.double(away(I, dtype=BF16)), [((I,), F64)])],
    "line_search": [(lambda: linalg.line_search(away(O), away(O)), [((O,), F32)])],
    "never_worse": [
        (lambda: linalg.never_worse(away(I, I), *(away(O, I, dtype=BF16) for _ in range(3))), [((O, I), BF16)]),
        (lambda: linalg.never_worse(away(I, I), away(O, I), away(O, I), away(O, I)), [((O, I), F32)]),
    ],
    "obs_sweep": [sweep(8, None, HALF, "layer"), sweep(7, None, HALF, "row"), sweep(8, 4, NofM(2, 4), "row")],
}
LINALG_ELSE = {
    "wide": "takes and returns a dtype, no tensor",
    "exact": "takes a device and returns a dtype, no tensor",
    "Factor": "a pair that `escalate` returns: it computes nothing",
    "escalate": "must read LAPACK's success: tested below, with the answer fed to it",
    "retry": "the part of `escalate` that reads",
    "all_finite": "a question about data, answered by a number",
    "nonzeros": "a question about data, answered by a number",
}

SOLVED = [((O, I), F32), ((O, I), F32)]
QUADRATIC: dict[str, list[tuple[Callable[[], Any], list[Any]]]] = {
    "unit_diagonal": [(lambda: quadratic.unit_diagonal(away(I, I), 0.01), [GRAM_32, ((I,), F32), ((), F32)])],
    "spiked": [
        (
            lambda rank=rank: quadratic.spiked(quadratic.unit_diagonal(away(I, I), 0.01), rank),
            [GRAM_32, ((I,), F32), ((), F32), ((I, rank), F32), ((I, 3 * (rank > 0)), F32)],
        )
        for rank in (0, 2)
    ],
    "conjugate_gradients": [
        (lambda: quadratic.conjugate_gradients(away(I, I), away(O, I), away(O, I, dtype=BOOL), 3), SOLVED),
        (
            lambda: quadratic.conjugate_gradients(
                away(I, I), away(O, I), away(O, I, dtype=BOOL), 3, away(I, 2), away(I, 3)
            ),
            SOLVED,
        ),
    ],
    "leverages": [(lambda: quadratic.leverages(away(O, I, dtype=BOOL), away(I, 2), away(I, 3)), SOLVED[:1])],
    "projected": [(lambda: quadratic.projected(away(O, I), away(O, I), away(O, I)), SOLVED[:1])],
}
QUADRATIC_ELSE = {
    "UnitDiagonal": "a triple that `unit_diagonal` returns: it computes nothing",
    "Spiked": "what `spiked` returns: it computes nothing",
    "Solved": "a pair: it computes nothing",
    "panels": "takes apart and computes nothing",
    "rows_of_panel": "takes and returns a number, no tensor",
    "strong_directions": "takes and returns a number, no tensor",
    "boxed": "must read whether any row expands: tested below, with the answer fed to it",
}
MODULES = {linalg: (LINALG, LINALG_ELSE), quadratic: (QUADRATIC, QUADRATIC_ELSE)}


def public(module: Any) -> set[str]:
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return {name for name in own if not name.startswith("_")}


@pytest.mark.parametrize("module", MODULES)
def test_every_function_is_tested_or_says_why_not(module):
    tested, untested = MODULES[module]
    assert {*tested} | {*untested} == public(module)
    assert not {*tested} & {*untested}


CALLS = [(name, call, found) for tested, _ in MODULES.values() for name, rows in tested.items() for call, found in rows]


@pytest.mark.parametrize("name,call,expected", CALLS)
def test_tensor_functions_compute_where_their_inputs_are(name, call, expected):
    assert pure(call) == expected


def test_escalate_reads_one_number_and_computes_where_its_input_is():
    with elsewhere() as zeros:
        factor = linalg.escalate(away(I, I), 0.01)
        assert shapes(factor) == [GRAM_32]
        assert factor.damp == 0.01
    assert zeros.reads == 1


def test_boxed_reads_one_number_a_step_and_computes_where_its_inputs_are():
    with elsewhere() as zeros:
        assert shapes(quadratic.boxed(away(I, I), away(O, I), away(O, I), 3)) == SOLVED
    assert zeros.reads == 3


# --- statistics and patterns ------------------------------------------------------------------------------------------

ROWS = 2  # one to each of the two sequences below
STATISTICS = {  # and the shapes of what they hold
    Gram(): [(I, I)],
    Moments(): [(I,), (I,)],
    SquaredNorm(): [(I,)],
    Activity(0.1): [(I,), (I,)],
    GroupedActivity(Documents()): [(ROWS, I), (ROWS,)],
}


def test_every_statistic_is_tested():
    folds = {c for name in statistics.__all__ if hasattr(c := getattr(statistics, name), "add")}
    assert folds == {type(statistic) for statistic in STATISTICS}


def folded_state(statistic: Any, dtype: torch.dtype) -> Any:
    """The state of a statistic after a batch of two sequences with five tokens."""
    x_BTI, labels_BT = away(2, 5, I, dtype=dtype), away(2, 5, dtype=torch.long)
    state = statistic.zero(x_BTI, ROWS if statistic.grouping else 0)
    return statistic.add(state, x_BTI, labels_BT if statistic.grouping else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("statistic", STATISTICS, ids=str)
def test_statistics_fold_where_the_activations_are(statistic, dtype):
    def fold():
        state = folded_state(statistic, dtype)
        return state, statistic.merge(state, state)

    found = pure(fold)
    assert [shape for shape, _ in found] == 2 * STATISTICS[statistic]
    assert all(held in (torch.float32, torch.float64, torch.int64) for _, held in found)


@pytest.mark.parametrize("scope", ["row", "layer"])
@pytest.mark.parametrize("pattern", OPTIONS["pattern"])
def test_patterns_choose_where_the_scores_are(pattern, scope):
    made = assembled(("magnitude", pattern, "none")).pattern
    for dtype in (*DTYPES, torch.float64):
        assert pure(lambda dtype=dtype: made.keep(away(O, I, dtype=dtype), scope)) == [((O, I), BOOL)]


@pytest.mark.parametrize("removed", [0, 1, I])
def test_keep_largest_computes_where_the_scores_are(removed):
    assert pure(lambda: keep_largest(away(O, I), removed)) == [((O, I), BOOL)]


# --- every method and corrector ---------------------------------------------------------------------------------------


def folded(taps: Any, dtype: torch.dtype) -> Stats:
    """The statistics that a stream would have folded, on the fake device."""
    return Stats(SITE, {tap: Folded(folded_state(tap.statistic, dtype)) for tap in taps})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", ["unstructured", "2of4"])
@pytest.mark.parametrize("method", OPTIONS["method"])
def test_methods_prune_where_the_weights_are(method, pattern, dtype):
    parts = assembled((method, pattern, "none"))
    with elsewhere() as zeros:
        layer = Layer(SITE, away(O, I, dtype=dtype))
        pruned = parts.method.prune(layer, parts.pattern, folded(parts.method.needs(SITE), dtype))
        assert shapes((pruned.weight_OI, pruned.keep_OI)) == [((O, I), dtype), ((O, I), BOOL)]
        assert all(isinstance(fact, float) for fact in pruned.facts.values())
    if isinstance(parts.method, Criterion):  # scores branch on nothing; a method may look at LAPACK's success
        assert zeros.reads == len(pruned.facts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("corrector", OPTIONS["corrector"])
def test_correctors_correct_where_the_weights_are(corrector, dtype):
    made = assembled(("wanda", "unstructured", corrector)).corrector
    with elsewhere():
        layer = Layer(SITE, away(O, I, dtype=dtype))
        pruned = Pruned(away(O, I, dtype=dtype), away(O, I, dtype=BOOL))
        corrected = made.correct(layer, pruned, folded(made.needs(SITE), dtype))
        assert shapes(corrected.weight_OI) == [((O, I), dtype)]


# --- perplexity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nll_is_computed_where_the_logits_are_and_comes_home(dtype):
    """`perplexity` and the table read numbers off it, so it ends on the CPU: one float64 a window."""
    with elsewhere() as zeros:
        found = nll(away(3, 7, zoo.VOCAB, dtype=dtype), torch.zeros(3, 7, dtype=torch.long))
        assert (found.shape, found.dtype, found.device.type) == ((3,), torch.float64, "cpu")
    assert zeros.reads == 0
    assert "Perplexity" in evaluation.__all__

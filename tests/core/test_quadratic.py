"""Minima of quadratic functions of many rows: the conditions that hold at a minimum and nowhere else."""

from __future__ import annotations

import itertools

import pytest
import torch
from problems import problem
from torch.testing import assert_close

from sparsity import quadratic
from sparsity.quadratic import boxed, conjugate_gradients, leverages, projected, spiked, unit_diagonal

F64 = torch.float64


def system(outputs=8, inputs=40, tokens=100, seed=0, damp=0.01):
    """A matrix with a unit diagonal, a pull in its range, and a random half that is free."""
    p = problem(outputs, inputs, tokens, seed)
    matrix_II = unit_diagonal(p.gram_II, damp).matrix_II
    free_OI = torch.rand(outputs, inputs, generator=torch.Generator().manual_seed(seed)) > 0.5
    return matrix_II, p.layer.weight_OI @ matrix_II, free_OI


def value(matrix_II, pull_OI, x_OI):
    return ((x_OI @ matrix_II - 2 * pull_OI) * x_OI).sum(1)


# --- the matrix -------------------------------------------------------------------------------------------------------


def test_the_diagonal_is_one_and_the_problem_the_same():
    gram_II = problem().gram_II
    matrix_II, scale_I, damping = unit_diagonal(gram_II, 0.1)
    assert torch.equal(matrix_II.diagonal(), torch.ones(16, dtype=F64))
    assert_close(damping, 0.1 * gram_II.diagonal().mean())
    assert_close(matrix_II / scale_I[:, None] / scale_I, gram_II + damping * torch.eye(16, dtype=F64))


def test_an_input_that_was_always_zero_has_a_row_of_zeros():
    gram_II = problem().gram_II
    gram_II[3], gram_II[:, 3] = 0, 0
    matrix_II, scale_I, _ = unit_diagonal(gram_II, 0.0)
    assert matrix_II[3].eq(0).all()
    assert matrix_II[:, 3].eq(0).all()
    assert scale_I[3] == 1
    assert matrix_II.isfinite().all()


# --- without a box ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [100, 15])
@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradients_end_where_the_residual_is_zero(seed, tokens):
    matrix_II, pull_OI, free_OI = system(tokens=tokens, seed=seed, damp=0.01 if tokens == 100 else 0.0)
    x_OI, residual_OI = conjugate_gradients(matrix_II, pull_OI, free_OI, 200)
    true_OI = (pull_OI - x_OI @ matrix_II) * free_OI
    assert true_OI.norm() <= 1e-8 * (pull_OI * free_OI).norm()
    assert_close(residual_OI, true_OI, rtol=0, atol=1e-8 * pull_OI.norm().item())
    assert x_OI[~free_OI].eq(0).all()


def test_as_many_steps_as_there_are_free_entries_are_exact():
    matrix_II, pull_OI, _ = system(inputs=12)
    free_OI = torch.zeros(8, 12, dtype=torch.bool)
    free_OI[:, 2:6] = True
    x_OI, _ = conjugate_gradients(matrix_II, pull_OI, free_OI, 4)
    exact_OI = torch.linalg.solve(matrix_II[2:6, 2:6], pull_OI[:, 2:6].T).T
    assert_close(x_OI[:, 2:6], exact_OI, rtol=1e-9, atol=1e-9)
    early_OI, _ = conjugate_gradients(matrix_II, pull_OI, free_OI, 3)
    assert (early_OI[:, 2:6] - exact_OI).norm() > 1e-4 * exact_OI.norm()


def test_every_step_descends_in_every_row():
    matrix_II, pull_OI, free_OI = system()
    values = [value(matrix_II, pull_OI, conjugate_gradients(matrix_II, pull_OI, free_OI, n)[0]) for n in range(12)]
    assert values[0].eq(0).all()
    assert all((b < a).all() for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("panel", [1, 3, 8])
def test_panels_do_not_change_the_result(monkeypatch, panel):
    matrix_II, pull_OI, free_OI = system()
    limit_OI = 0.2 * free_OI
    whole = conjugate_gradients(matrix_II, pull_OI, free_OI, 10), boxed(matrix_II, pull_OI, limit_OI, 10)
    monkeypatch.setattr(quadratic, "PANEL", panel * len(matrix_II))
    parts = conjugate_gradients(matrix_II, pull_OI, free_OI, 10), boxed(matrix_II, pull_OI, limit_OI, 10)
    assert_close(parts, whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("steps", [1, 500])
def test_a_row_that_has_nothing_left_to_do_stands_still(dtype, steps):
    matrix_II, pull_OI, free_OI = (part.to(dtype) if part.dtype == F64 else part for part in system(tokens=5, damp=0))
    pull_OI[0], free_OI[1] = 0, False
    limit_OI = torch.full_like(pull_OI, torch.inf).where(free_OI, 0)
    for x_OI, residual_OI in (
        conjugate_gradients(matrix_II, pull_OI, free_OI, steps),
        boxed(matrix_II, pull_OI, limit_OI, steps),
        boxed(torch.zeros_like(matrix_II), torch.zeros_like(pull_OI), limit_OI, steps),
    ):
        assert x_OI.isfinite().all()
        assert residual_OI.isfinite().all()
        assert x_OI[:2].eq(0).all()


# --- with strong directions known beforehand --------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("rank", [0, 1, 5, 10])
def test_the_scaled_problem_is_the_same_problem(rank, dead):
    p = problem(inputs=40)
    if dead:
        p.gram_II[:, 3], p.gram_II[3] = 0, 0
    plain = unit_diagonal(p.gram_II, 0.1 * (not dead))
    matrix_II, scale_I, damping, low_IK, pairs_IJ = spiked(plain, rank)
    whole_II = p.gram_II + damping * torch.eye(40, dtype=F64)
    assert_close(matrix_II / scale_I[:, None] / scale_I, whole_II)
    assert low_IK.shape == (40, rank)
    assert pairs_IJ.shape == (40, rank * (rank + 1) // 2)
    # what U explains is part of A, never more
    assert torch.linalg.eigvalsh(matrix_II - low_IK @ low_IK.T).min() >= -1e-9
    if rank and not dead:
        near_I = torch.eye(40, dtype=F64) + low_IK @ low_IK.T
        assert_close(near_I.diagonal(), matrix_II.diagonal())


def test_its_bits_are_always_the_same():
    plain = unit_diagonal(problem(inputs=40).gram_II, 0.01)
    assert all(torch.equal(a, b) for a, b in zip(spiked(plain, 5), spiked(plain, 5), strict=True))


def low_rank(rank=3, outputs=8, inputs=40, seed=0):
    """I + U U' of a given rank, the products of U's columns, a pull, and a random half that is free, but nothing in row 1."""
    g = torch.Generator().manual_seed(seed)
    low_IK = 2 * torch.randn(inputs, rank, generator=g, dtype=F64)
    a, b = torch.tril_indices(rank, rank)
    free_OI = torch.rand(outputs, inputs, generator=g) > 0.5
    free_OI[1] = False
    pull_OI = torch.randn(outputs, inputs, generator=g, dtype=F64)
    return torch.eye(inputs, dtype=F64) + low_IK @ low_IK.T, pull_OI, free_OI, low_IK, low_IK[:, a] * low_IK[:, b]


def test_one_step_solves_every_row_of_identity_plus_low_rank():
    matrix_II, pull_OI, free_OI, low_IK, pairs_IJ = low_rank()
    x_OI, residual_OI = conjugate_gradients(matrix_II, pull_OI, free_OI, 1, low_IK, pairs_IJ)
    for x_I, pull_I, free_I in zip(x_OI, pull_OI, free_OI, strict=True):
        assert_close(
            x_I[free_I], torch.linalg.solve(matrix_II[free_I][:, free_I], pull_I[free_I]), rtol=1e-9, atol=1e-9
        )
        assert x_I[~free_I].eq(0).all()
    assert residual_OI.norm() <= 1e-9 * pull_OI.norm()
    plain_OI = conjugate_gradients(matrix_II, pull_OI, free_OI, 1).residual_OI
    assert plain_OI.norm() > 0.1 * pull_OI.norm()


def test_the_first_step_is_along_the_inverse_on_each_free_set():
    """Whatever the matrix is, the direction is (I + U U')^-1 r on the row's free set, here computed with a dense inverse."""
    _, pull_OI, free_OI, low_IK, pairs_IJ = low_rank(4)
    matrix_II = system()[0]
    x_OI, _ = conjugate_gradients(matrix_II, pull_OI, free_OI, 1, low_IK, pairs_IJ)
    for x_I, pull_I, free_I in zip(x_OI, pull_OI, free_OI, strict=True):
        low_SK = low_IK[free_I]
        z_S = torch.linalg.inv(torch.eye(len(low_SK), dtype=F64) + low_SK @ low_SK.T) @ pull_I[free_I]
        length = (z_S @ pull_I[free_I]) / (z_S @ matrix_II[free_I][:, free_I] @ z_S) if len(z_S) else 0
        assert_close(x_I[free_I], length * z_S, rtol=1e-9, atol=1e-9)


def test_a_matrix_of_low_rank_and_a_diagonal_takes_few_steps():
    """Found by itself: three directions of 40 inputs, each with noise of its own."""
    g = torch.Generator().manual_seed(0)
    low_IK = torch.randn(40, 3, generator=g, dtype=F64)
    gram_II = low_IK @ low_IK.T + 0.1 * torch.eye(40, dtype=F64)
    plain = unit_diagonal(gram_II, 0.0)
    _, pull_OI, free_OI = system()
    exact = [
        conjugate_gradients(s[0], pull_OI / plain[1] * s[1], free_OI, 200).change_OI for s in (plain, spiked(plain, 3))
    ]
    far = []
    for s, exact_OI in zip((plain, spiked(plain, 3)), exact, strict=True):
        x_OI = conjugate_gradients(s[0], pull_OI / plain[1] * s[1], free_OI, 3, *s[3:]).change_OI
        far.append((x_OI - exact_OI).norm() / exact_OI.norm())
    assert far[1] < 0.05 * far[0]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("tokens", [3, 15, 100])
@pytest.mark.parametrize("rank", [1, 4, 10])
def test_it_ends_where_the_residual_is_zero(rank, tokens, dtype):
    """With as many tokens as directions or fewer, too, and of a matrix of zeros."""
    p = problem(8, 40, tokens)
    free_OI = torch.rand(8, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    for gram_II in (p.gram_II, 0 * p.gram_II):
        s = spiked(unit_diagonal(gram_II.to(dtype), 0.0), rank)
        assert all(part.isfinite().all() for part in s)
        pull_OI = p.layer.weight_OI.to(dtype) @ s.matrix_II
        x_OI, residual_OI = conjugate_gradients(s.matrix_II, pull_OI, free_OI, 200, *s[3:])
        true_OI = (pull_OI - x_OI @ s.matrix_II) * free_OI
        small = (1e-7 if dtype == F64 else 1e-2) * pull_OI.norm()
        assert x_OI.isfinite().all()
        assert true_OI.norm() <= small
        assert (residual_OI - true_OI).norm() <= small


# --- in a box ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.01, 0.03, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_minimum_in_a_box_satisfies_its_conditions(seed, width):
    """Strictly inside no gradient; at a bound the gradient points out of the box; nothing beyond a bound."""
    matrix_II, pull_OI, free_OI = system(seed=seed)
    limit_OI = width * problem(8, 40, 100, seed + 1).layer.weight_OI.abs() * free_OI
    x_OI, _ = boxed(matrix_II, pull_OI, limit_OI, 300)
    downhill_OI = pull_OI - x_OI @ matrix_II
    small = 1e-8 * (pull_OI * free_OI).norm(dim=1, keepdim=True)
    assert (x_OI.abs() <= limit_OI).all()
    inside_OI, low_OI, high_OI = x_OI.abs() < limit_OI, x_OI <= -limit_OI, x_OI >= limit_OI
    assert (downhill_OI.abs() <= small)[inside_OI].all()
    assert (downhill_OI <= small)[low_OI & free_OI].all()
    assert (downhill_OI >= -small)[high_OI & free_OI].all()
    assert (projected(downhill_OI, x_OI, limit_OI).norm(dim=1, keepdim=True) <= small).all()
    assert inside_OI.any()
    if width <= 1:
        assert (low_OI & free_OI).any()
        assert (high_OI & free_OI).any()


def test_clamping_the_minimum_is_not_the_minimum_in_the_box():
    matrix_II, pull_OI, free_OI = system()
    limit_OI = 0.3 * free_OI.double()
    clamped_OI = conjugate_gradients(matrix_II, pull_OI, free_OI, 100).change_OI.clamp(-limit_OI, limit_OI)
    found_OI, _ = boxed(matrix_II, pull_OI, limit_OI, 100)
    assert (value(matrix_II, pull_OI, found_OI) < value(matrix_II, pull_OI, clamped_OI)).all()


def test_a_wide_box_is_no_box():
    matrix_II, pull_OI, free_OI = system()
    limit_OI = 1e6 * free_OI
    for steps in (5, 100):
        plain, found = (
            conjugate_gradients(matrix_II, pull_OI, free_OI, steps),
            boxed(matrix_II, pull_OI, limit_OI, steps),
        )
        assert_close(found.change_OI, plain.change_OI, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("tokens", [100, 15])
def test_every_step_in_a_box_is_feasible_and_descends(tokens, dtype):
    matrix_II, pull_OI, free_OI = system(tokens=tokens)
    limit_OI = (0.2 * pull_OI.abs().sqrt() * free_OI).to(dtype)
    matrix_II, pull_OI = matrix_II.to(dtype), pull_OI.to(dtype)
    values = []
    for steps in range(25):
        x_OI = boxed(matrix_II, pull_OI, limit_OI, steps).change_OI
        assert (x_OI.abs() <= limit_OI).all()
        values.append(value(matrix_II.double(), pull_OI.double(), x_OI.double()))
    slack = 100 * torch.finfo(dtype).eps * values[-1].abs()
    assert all((b <= a + slack).all() for a, b in itertools.pairwise(values))


def test_a_weight_that_left_its_bound_comes_back():
    """Two entries that pull one another: first both run into the upper bound, then one must turn and go to the lower one."""
    matrix_II = torch.tensor([[1, 0.95], [0.95, 1]], dtype=F64)
    pull_OI = torch.tensor([[2.0, 0.5]], dtype=F64)
    x_OI, _ = boxed(matrix_II, pull_OI, torch.ones(1, 2, dtype=F64), 20)
    assert_close(x_OI, torch.tensor([[1, 0.5 - 0.95]], dtype=F64))
    narrow_OI, _ = boxed(matrix_II, pull_OI, torch.tensor([[1, 0.4]], dtype=F64), 20)
    assert_close(narrow_OI, torch.tensor([[1, -0.4]], dtype=F64))


def test_leverages_are_what_giving_up_and_freeing_a_variable_costs():
    """Exactly, where A = I + U U': both denominators by dense inverses, and the changes of the minimum themselves."""
    g = torch.Generator().manual_seed(0)
    low_IK = torch.randn(12, 3, generator=g, dtype=torch.float64)
    a_J, b_J = torch.tril_indices(3, 3)
    matrix_II = torch.eye(12, dtype=torch.float64) + low_IK @ low_IK.T
    pull_OI = torch.randn(4, 12, generator=g, dtype=torch.float64)
    free_OI = torch.rand(4, 12, generator=g) < 0.5
    leverage_OI = leverages(free_OI, low_IK, low_IK[:, a_J] * low_IK[:, b_J])

    def minimum(pull_I, free_I):
        """The minimiser, and twice how far x A x' - 2 x r' goes down."""
        x_I = torch.zeros_like(pull_I)
        x_I[free_I] = torch.linalg.solve(matrix_II[free_I][:, free_I], pull_I[free_I])
        return x_I, x_I @ pull_I

    for pull_I, free_I, leverage_I in zip(pull_OI, free_OI, leverage_OI, strict=True):
        x_I, depth = minimum(pull_I, free_I)
        residual_I = pull_I - x_I @ matrix_II
        for i in range(12):
            other_I = free_I.clone()
            other_I[i] = ~other_I[i]
            change = minimum(pull_I, other_I)[1] - depth
            expected = -(x_I[i] ** 2) / (1 - leverage_I[i]) if free_I[i] else residual_I[i] ** 2 / (1 + leverage_I[i])
            assert_close(change, expected)

"""Allocations: totals exact to the weight, shares that satisfy what they minimise, and measurements that are the textbook's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import architectures as zoo
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from sparsity.allocation import Owl, Sensitivity, Uniform
from sparsity.allocation.balance import balanced, least_cost
from sparsity.allocation.exact import apportioned
from sparsity.allocation.groups import grouped
from sparsity.allocation.probe import divergences
from sparsity.core import Site, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import plan, prune
from sparsity.methods import Dense, Magnitude, Route, Wanda
from sparsity.models import Decoder
from sparsity.patterns import NofM, Unstructured
from sparsity.stream import BlockStream

CPU = torch.device("cpu")
LEVELS = torch.linspace(0, 1, 101, dtype=torch.float64)
ALLOCATIONS = [
    *(Owl(unit, 2.0, 0.15) for unit in ("block", "role", "layer")),
    *(Sensitivity(unit, 0.6, 2, 0.15) for unit in ("block", "role", "layer", "leaf")),
]


def decoder(name: str = "llama") -> Decoder:
    return Decoder(zoo.build(zoo.CONFIGS[name]()))


def shapes_of(model: Decoder) -> dict[Site, tuple[int, int]]:
    return {site: tuple(model.layer(site).weight_OI.shape) for site in model.sites}


def measured(allocation, model: Decoder):
    return allocation.measure(model, zoo.stream(model, propagate="dense"), zoo.ids(), shapes_of(model))


def layers(*shapes: tuple[int, int]) -> dict[Site, tuple[int, int]]:
    return {Site(i, f"layers.{i}.w", "mlp"): shape for i, shape in enumerate(shapes)}


def removed(pattern, shape: tuple[int, int], scope: str) -> int:
    score_OI = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    keep_OI = pattern.keep(score_OI, scope)
    assert keep_OI.any(1).all() or scope == "layer"  # no row is emptied
    return int((~keep_OI).sum())


# --- exact totals -----------------------------------------------------------------------------------------------------

SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(2, 40)), min_size=1, max_size=6)


@given(sizes=SIZES, percent=st.integers(0, 99), tilt=st.lists(st.floats(-1, 1), min_size=6, max_size=6))
def test_the_total_is_exact(sizes, percent, tilt):
    """To the weight where scores compare in the layer; within rows, short of it by fewer weights than a layer has rows."""
    shapes, sparsity = layers(*sizes), percent / 100
    size_G = torch.tensor([o * i for o, i in sizes], dtype=torch.float64)
    tilt_G = torch.tensor(tilt[: len(sizes)], dtype=torch.float64)
    wanted_G = balanced(lambda c: (sparsity + tilt_G + c).clamp(0, 1), size_G, sparsity, -3.0, 3.0)
    wanted = dict(zip(shapes, wanted_G.tolist(), strict=True))
    shares = apportioned(shapes, wanted, sparsity)
    patterns = {site: Unstructured(0.0).at(share) for site, share in shares.items()}
    total = math.floor(Fraction(str(sparsity)) * sum(o * i for o, i in sizes))
    total = min(total, sum(o * (i - 1) for o, i in sizes))  # a weight stays in every row
    assert sum(removed(patterns[site], shape, "layer") for site, shape in shapes.items()) == total
    by_row = sum(removed(patterns[site], shape, "row") for site, shape in shapes.items())
    assert total - max(o for o, _ in sizes) < by_row <= total
    full = any(shares[site] * i >= i - 1 for site, (_, i) in shapes.items())
    for site, (outputs, inputs) in shapes.items():  # what is too little for a wide layer's rows goes to narrow ones
        near = 2 + max(o for o, _ in sizes) / outputs
        assert full or abs(float(shares[site]) - wanted[site]) * inputs < near


def test_a_fraction_becomes_a_pattern_that_removes_it_exactly():
    """1/3 of 3 is 1, though its decimal is below a third."""
    for inputs in range(2, 200):
        score_OI = torch.rand(1, inputs, generator=torch.Generator().manual_seed(inputs))
        for each in {1, inputs // 3, inputs - 1}:
            pattern = Unstructured(0.5).at(Fraction(each, inputs))
            assert int((~pattern.keep(score_OI, "row")).sum()) == each
            assert float(pattern.sparsity) == pytest.approx(each / inputs, rel=1e-15)


# --- shares of least cost ---------------------------------------------------------------------------------------------


def marginal(cost_GL, share_G, size_G):
    """Cost of a little more of every group, per weight: the centred difference of the costs, between their levels."""
    slope_GL = cost_GL.diff(dim=1) * 100 / size_G[:, None]
    at_G = (share_G * 100 - 0.5).clamp(0, 98.999)
    below_G1 = at_G.long()[:, None]
    part_G = at_G - below_G1[:, 0]
    a_G, b_G = slope_GL.gather(1, below_G1)[:, 0], slope_GL.gather(1, below_G1 + 1)[:, 0]
    return a_G ** (1 - part_G) * b_G**part_G


def synthetic(groups: int = 7, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    scale_G = torch.rand(groups, generator=g, dtype=torch.float64).mul(3).exp()
    power_G = 2 + 2 * torch.rand(groups, generator=g, dtype=torch.float64)
    size_G = torch.randint(1, 9, (groups,), generator=g).double()
    return scale_G[:, None] * LEVELS ** power_G[:, None], size_G


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("lam", [0.05, 0.2, 0.9])
def test_the_shares_are_a_kkt_point(seed, sparsity, lam):
    cost_GL, size_G = synthetic(seed=seed)
    share_G = least_cost(cost_GL, size_G, sparsity, lam)
    assert_close(share_G @ size_G, sparsity * size_G.sum(), rtol=1e-12, atol=0)
    low, high = max(0.0, sparsity - lam), min(1.0, sparsity + lam)
    at_low_G, at_high_G = share_G <= low + 1e-12, share_G >= high - 1e-12
    price_G = marginal(cost_GL, share_G, size_G)
    inside_G = price_G[~at_low_G & ~at_high_G]
    if len(inside_G):
        price = inside_G.mean()
        assert_close(inside_G, price.expand_as(inside_G), rtol=1e-9, atol=0)
        assert (price_G[at_low_G] >= price * (1 - 1e-9)).all()
        assert (price_G[at_high_G] <= price * (1 + 1e-9)).all()
    else:
        assert price_G[at_low_G].min() >= price_G[at_high_G].max()


def test_no_feasible_change_costs_less():
    cost_GL, size_G = synthetic()

    def cost(share_G):
        at_G = share_G * 100
        below_G1 = at_G.long().clamp(max=99)[:, None]
        part_G = at_G - below_G1[:, 0]
        return cost_GL.gather(1, below_G1)[:, 0].lerp(cost_GL.gather(1, below_G1 + 1)[:, 0], part_G).sum()

    share_G = least_cost(cost_GL, size_G, 0.5, 0.3)
    assert cost(share_G) < 0.8 * cost(torch.full_like(share_G, 0.5))
    g = torch.Generator().manual_seed(1)
    for _ in range(200):
        step_G = torch.randn(len(size_G), generator=g, dtype=torch.float64) / size_G
        step_G -= (step_G @ size_G) / (size_G @ size_G) * size_G
        other_G = share_G + 0.05 * step_G / step_G.abs().max()
        if ((other_G - 0.5).abs() <= 0.3).all():
            assert cost(other_G) > cost(share_G)


def test_quadratic_marginal_costs_have_the_closed_form():
    """c_g = k_g s^3, equal sizes: k_g s_g^2 is one price, so s_g goes as 1 / sqrt(k_g)."""
    scale_G = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    share_G = least_cost(scale_G[:, None] * LEVELS**3, torch.ones(4, dtype=torch.float64), 0.4, 1.0)
    expected_G = scale_G**-0.5
    assert_close(share_G, expected_G * 0.4 * 4 / expected_G.sum(), rtol=1e-3, atol=0)


def test_equal_costs_per_weight_have_equal_shares_and_a_dearer_group_gives_less():
    cost_GL, size_G = synthetic()
    same_GL = size_G[:, None] * LEVELS**3
    for sparsity in (0.0, 0.3, 0.6, 0.99):
        assert_close(
            least_cost(same_GL, size_G, sparsity, 0.2), torch.full_like(size_G, sparsity), rtol=1e-9, atol=1e-12
        )
    before_G = least_cost(cost_GL, size_G, 0.6, 0.9)
    cost_GL[2] *= 3
    after_G = least_cost(cost_GL, size_G, 0.6, 0.9)
    others_G = torch.arange(len(size_G)) != 2
    assert after_G[2] < before_G[2]
    assert (after_G[others_G] >= before_G[others_G]).all()
    assert (after_G[others_G] > before_G[others_G]).sum() >= len(size_G) - 2  # one was at its bound
    assert_close(least_cost(cost_GL, size_G, 0.6, 0.0), torch.full_like(size_G, 0.6))


def test_costs_that_stay_flat_share_what_is_left():
    """At one price all of their levels are as good: each goes equally far."""
    flat_GL = LEVELS.expand(3, -1).clone()
    assert_close(
        least_cost(flat_GL, torch.ones(3, dtype=torch.float64), 0.5, 0.2), torch.full((3,), 0.5, dtype=torch.float64)
    )


# --- what is measured -------------------------------------------------------------------------------------------------


def inputs_of(model: Decoder) -> dict[str, torch.Tensor]:
    """The mean square of every layer's inputs, by a plain forward pass."""
    found: dict[str, torch.Tensor] = {}
    names = {module: name for name, module in model.model.named_modules()}
    hook = lambda module, args: found.update({names[module]: args[0].double().square().mean((0, 1))})  # noqa: E731
    handles = [model.model.get_submodule(site.name).register_forward_pre_hook(hook) for site in model.sites]
    model.model(input_ids=zoo.ids(), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("unit", ["block", "role", "layer"])
def test_owl_is_the_textbook(unit):
    model = decoder()
    mean_square, shapes = inputs_of(model), shapes_of(model)
    groups = grouped(shapes, unit)
    assert {len(group) for group in groups.values()} == {"block": {7}, "role": {4, 3}, "layer": {1}}[unit]
    outliers = []
    for group in groups.values():
        scores = [model.layer(s).weight_OI.abs().double() * mean_square[s.name].sqrt() for s in group]
        score_N = torch.cat([score_OI.flatten() for score_OI in scores])
        outliers.append((score_N > 2 * score_N.mean()).double().mean().item())
    owl = Owl(unit, 2.0, 0.1)
    found = measured(owl, model)
    assert found["outliers"].tolist() == pytest.approx(
        outliers, abs=2e-4
    )  # a score at the threshold may fall either way
    rows = owl.allot(Unstructured(0.5), shapes, found).rows
    shares, sizes = [row["share"] for row in rows], [row["weights"] for row in rows]
    scaled = [0.2 * (d - min(outliers)) / (max(outliers) - min(outliers)) for d in outliers]
    mean = sum(d * n for d, n in zip(scaled, sizes, strict=True)) / sum(sizes)
    assert shares == pytest.approx([0.5 - d + mean for d in scaled], abs=1 / 32 + 1e-3)  # a weight of a row
    assert sum(s * n for s, n in zip(shares, sizes, strict=True)) == pytest.approx(0.5 * sum(sizes))


def test_equal_outliers_and_no_room_are_uniform():
    shapes = layers((4, 16), (8, 32))
    same = {"outliers": torch.full((2,), 0.25, dtype=torch.float64)}
    other = {"outliers": torch.tensor([0.25, 0.5], dtype=torch.float64)}
    for owl, outliers in ((Owl("block", 5.0, 0.1), same), (Owl("block", 5.0, 0.0), other)):
        patterns = owl.allot(Unstructured(0.5), shapes, outliers).patterns
        assert {pattern.sparsity for pattern in patterns.values()} == {0.5}
    spared, given = Owl("block", 5.0, 0.1).allot(Unstructured(0.5), shapes, other).patterns.values()
    assert spared.sparsity > 0.5 > given.sparsity


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_a_probe_is_the_divergence_of_a_model_pruned_alone(name):
    model = decoder(name)
    groups = [*grouped(shapes_of(model), "role").values(), *grouped(shapes_of(model), "leaf").values()]
    before = model.fingerprint()

    def halved(layer):
        return Magnitude("row").prune(layer, Unstructured(0.5), None).weight_OI

    found_G = divergences(model, zoo.ids(2), groups, halved, CPU)
    assert model.fingerprint() == before  # to the last bit
    ids_BT = zoo.ids(2)
    p_BTV = model.logits(ids_BT)[:, :-1].double().log_softmax(-1)
    for group, found in zip(groups, found_G.tolist(), strict=True):
        other = Decoder(copy.deepcopy(model.model))
        for site in group:
            other.blocks[site.block].write(site, halved(other.layer(site)))
        q_BTV = other.logits(ids_BT)[:, :-1].double().log_softmax(-1)
        assert found == pytest.approx((p_BTV.exp() * (p_BTV - q_BTV)).sum(-1).mean().item(), rel=1e-3)
        assert found > 1e-5


def test_a_probe_that_fails_leaves_the_model_as_it_was():
    model = decoder()
    before = model.fingerprint()

    def broken(layer):
        if layer.site.leaf == "up_proj":
            raise RuntimeError
        return torch.zeros_like(layer.weight_OI)

    with pytest.raises(RuntimeError):
        divergences(model, zoo.ids(1), [*grouped(shapes_of(model), "block").values()], broken, CPU)
    assert model.fingerprint() == before


def test_the_loss_of_a_group_is_that_of_what_wanda_removes():
    model = decoder()
    mean_square = inputs_of(model)
    found = measured(Sensitivity("layer", 0.6, 1, 0.1), model)["loss"]
    assert found.diff(dim=1).min() >= 0
    assert found.diff(dim=1).diff(dim=1).min() > -1e-4  # convex, but where a level falls between two weights of a row
    assert_close(found[:, -1], torch.ones(len(model.sites), dtype=torch.float64))
    for site, loss_L in zip(model.sites, found, strict=True):
        score_OI = model.layer(site).weight_OI.double().square() * mean_square[site.name]
        for percent in (25, 50, 75):  # whole weights of 32 or 64 inputs
            each = score_OI.shape[1] * percent // 100
            share = score_OI.sort(1).values[:, :each].sum() / score_OI.sum()
            assert loss_L[percent].item() == pytest.approx(share.item(), rel=1e-5)


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=str)
def test_what_is_measured_changes_nothing_and_repeats(allocation):
    model = decoder()
    before = model.fingerprint()
    once, again = measured(allocation, model), measured(allocation, model)
    assert model.fingerprint() == before
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert replace(allocation, lam=0.01).measurement == allocation.measurement  # shares alone depend on it


# --- in the engine ----------------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[[], object]] = {
    "wanda": lambda: Wanda("row"),
    "magnitude": lambda: Magnitude("layer"),
    "route": lambda: Route({"attention": Magnitude("layer"), "mlp": Wanda("row")}),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("allocation", [ALLOCATIONS[0], ALLOCATIONS[4]], ids=str)
def test_every_layer_is_pruned_by_its_share_and_the_model_by_the_total(allocation, method):
    model, pattern = decoder(), Unstructured(0.55)
    shapes = shapes_of(model)
    found = allocation.allot(pattern, shapes, measured(allocation, model))
    assert len({p.sparsity for p in found.patterns.values()}) > 1
    the_plan = plan(model, METHODS[method](), pattern, NoCorrection())
    stream = BlockStream(model, zoo.ids(), batch_size=2, propagate="pruned", device=CPU)
    gone = 0
    for report in prune(stream, replace(the_plan, patterns=found.patterns)):
        assert report.asked == found.patterns[report.site].sparsity
        assert report.found == pytest.approx(report.asked, abs=1 / report.shape[1])
        assert (model.layer(report.site).weight_OI != 0).any(1).all()
        gone += int((~report.keep_OI).sum())
    total = math.floor(Fraction("0.55") * sum(o * i for o, i in shapes.values()))
    assert total - min(o for o, _ in shapes.values()) < gone <= total
    if method == "magnitude":
        assert gone == total


def test_uniform_is_the_pattern_itself():
    shapes, pattern = layers((4, 16), (8, 32)), NofM(2, 4)
    found = Uniform().allot(pattern, shapes, {})
    assert all(found.patterns[site] is pattern for site in shapes)
    assert (found.rows, Uniform().measurement) == ([], None)
    Uniform().check(pattern)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", [ALLOCATIONS[0], ALLOCATIONS[3]], ids=str)
def test_a_pattern_of_groups_is_refused_in_words(allocation):
    with pytest.raises(
        UserError, match=rf"{type(allocation).__name__}.*NofM\(n=2, m=4\) removes 50.00% .*allocation=uniform"
    ):
        allocation.check(NofM(2, 4))
    with pytest.raises(UserError, match=r"2-of-4 removes 50\.00% of every layer"):
        NofM(2, 4).at(Fraction(1, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Owl("block", 0.0, 0.1), "outlier=0.0"),
        (lambda: Owl("block", 5.0, 1.0), "lam=1.0 is not valid: expected a number >= 0 and < 1"),
        (lambda: Owl("leaf", 5.0, 0.1), "unit=leaf is not valid: expected block, role or layer"),
        (lambda: Owl("head", 5.0, 0.1), "unit=head is not valid: expected block, role"),
        (lambda: Sensitivity("role", 0.0, 2, 0.1), "level=0.0 is not valid"),
        (lambda: Sensitivity("role", 0.5, 0, 0.1), "sequences=0"),
        (lambda: Sensitivity("role", 0.5, 2, -0.1), "lam=-0.1"),
        (lambda: measured(Sensitivity("role", 0.5, 9, 0.1), decoder()), "sequences=9: expected at most the 5"),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_what_is_left_alone_takes_no_part():
    """If a route leaves attention dense, the MLP alone gets the total."""
    model = decoder()
    the_plan = plan(model, Route({"attention": Dense(), "mlp": Wanda("row")}), Unstructured(0.5), NoCorrection())
    asked = [site for site in the_plan.needs if the_plan.method.asked(site, the_plan.patterns[site])]
    assert {site.role for site in asked} == {"mlp"}

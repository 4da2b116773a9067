"""What a method found is compared with what was asked of it, layer by layer: anything else stops the run by the layer's name."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import architectures as zoo
import pytest
import torch
from commands import MEASURED, run
from contract import CASES, SPARSITY, template

from sparsity.core import Corrected, Criterion, Pruned, Scope, UserError
from sparsity.correctors import NoCorrection
from sparsity.engine import LayerReport, plan, prune
from sparsity.linalg import layer_loss, relative_error, retry
from sparsity.methods import Magnitude, SparseGPT, Swaps, Wanda
from sparsity.models import Decoder
from sparsity.patterns import NofM, Unstructured
from sparsity.stream import BlockStream

FIRST = r"model\.layers\.0\.self_attn\.q_proj"
HALF = Unstructured(SPARSITY)


def walked(method, pattern=HALF, corrector=None) -> list[LayerReport]:
    decoder = Decoder(copy.deepcopy(template(CASES[1])))
    the_plan = plan(decoder, method, pattern, corrector or NoCorrection(), layer_error=False)
    stream = BlockStream(decoder, zoo.ids(), batch_size=3, propagate="dense", device=torch.device("cpu"))
    return [*prune(stream, the_plan)]


@dataclass(frozen=True)
class Scores(Criterion):
    """Magnitude, with another value for one weight of each layer."""

    value: float
    scope: Scope = "row"

    def score(self, layer, stats):
        score_OI = layer.weight_OI.abs()
        score_OI[1, 2] = self.value
        return score_OI


@pytest.mark.parametrize("pattern", [HALF, NofM(1, 4)])
def test_a_score_that_is_nan_is_named(pattern):
    with pytest.raises(UserError, match=rf"{FIRST}: Scores\(.*\) scores some of its weights NaN"):
        walked(Scores(math.nan), pattern)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.0])
def test_a_score_that_is_infinite_may_be_meant(value):
    assert all(report.found == report.asked for report in walked(Scores(value)))


@dataclass(frozen=True)
class Rule(Criterion):
    """Magnitude's mask with so many weights of the layer more or fewer removed, and what it says about that."""

    removed: int
    fewer: int = 0
    more: int = 0
    scope: Scope = "row"

    def score(self, layer, stats): ...

    def prune(self, layer, pattern, stats):
        keep_OI = Magnitude("row").prune(layer, pattern, stats).keep_OI
        from_these = (keep_OI if self.removed > 0 else ~keep_OI).flatten().nonzero()[: abs(self.removed), 0]
        keep_OI.view(-1)[from_these] ^= True
        return Pruned(layer.weight_OI * keep_OI, keep_OI, fewer=self.fewer, more=self.more)


ROWS = 16  # of the narrowest layer, k_proj or v_proj


@pytest.mark.parametrize("removed", [0, 1, -1, ROWS, -ROWS])
def test_whole_weights_of_a_row_may_be_a_weight_off(removed):
    assert walked(Rule(removed))


@pytest.mark.parametrize(("removed", "said"), [(ROWS + 1, "78"), (-ROWS - 1, "71"), (384, "")])
def test_a_mask_that_is_not_what_was_asked_is_named(removed, said):
    rule = Rule(removed)
    with pytest.raises(UserError, match=rf"_proj: .* weights were removed, {said}.*expected 75\.00%, to one a row"):
        walked(rule)


@pytest.mark.parametrize(
    "spoil", [lambda keep_OI: keep_OI.T, lambda keep_OI: keep_OI.float(), lambda keep_OI: keep_OI[:, 0]]
)
def test_a_mask_of_another_shape_or_kind_is_named(spoil):
    @dataclass(frozen=True)
    class Odd:
        base: Magnitude

        def check(self, sites, pattern): ...

        def needs(self, site):
            return ()

        def asked(self, site, pattern):
            return pattern.sparsity

        def prune(self, layer, pattern, stats):
            pruned = self.base.prune(layer, pattern, stats)
            return replace(pruned, keep_OI=spoil(pruned.keep_OI)) if layer.site.leaf == "gate_proj" else pruned

    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.gate_proj: .*Odd.* returned a mask of shape"):
        walked(Odd(Magnitude("row")))


def test_a_method_may_say_how_far_its_own_rule_goes():
    assert walked(Rule(ROWS + 1, more=1))
    assert walked(Rule(-ROWS - 1, fewer=1))
    for rule in (Rule(ROWS + 1, fewer=1), Rule(-ROWS - 1, more=1)):
        with pytest.raises(UserError, match="were removed"):
            walked(rule)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_named(value):
    class Harms(Magnitude):
        def prune(self, layer, pattern, stats):
            pruned = super().prune(layer, pattern, stats)
            return replace(pruned, weight_OI=pruned.weight_OI * value)

    class HarmsLater(NoCorrection):
        def correct(self, layer, pruned, stats):
            return Corrected(pruned.weight_OI * value)

    with pytest.raises(UserError, match=rf"{FIRST}: .*Harms\(.*NaN or infinite"):
        walked(Harms("row"))
    with pytest.raises(UserError, match=rf"{FIRST}: .*HarmsLater\(.*NaN or infinite"):
        walked(Magnitude("row"), corrector=HarmsLater())


@pytest.mark.parametrize("moved", [False, True])
def test_a_removed_weight_that_comes_back_is_named(moved):
    """Also if as many survivors become zero, so that their number is right."""

    class Revives(NoCorrection):
        def correct(self, layer, pruned, stats):
            keep_OI = pruned.keep_OI.clone()
            keep_OI[0, pruned.keep_OI[0].nonzero()[0]] = not moved
            keep_OI[0, (~pruned.keep_OI[0]).nonzero()[0]] = True
            return Corrected(layer.weight_OI * keep_OI)

    with pytest.raises(
        UserError, match=rf"{FIRST}: 1 of the weights that the mask removes are not zero: expected only the"
    ):
        walked(Wanda("row"), corrector=Revives())


# --- inputs that were always zero -------------------------------------------------------------------------------------

DEAD = ("model=local", "model.path=own", "method=sparsegpt", "method.width=16", *MEASURED)


@pytest.fixture
def half_dead(work):
    """A model in which half of the inputs of the first down projection are always zero."""
    from checkpoints import save, tiny

    loaded = tiny()
    loaded.model.model.layers[0].mlp.up_proj.weight[::2] = 0
    save(loaded, work / "own")


def test_what_sparsegpt_takes_of_dead_inputs_is_admitted_and_no_more(half_dead):
    [down] = [row for row in run(*DEAD, "sparsity=0.3").layers if row["name"] == "model.layers.0.mlp.down_proj"]
    assert float(down["dead_inputs"]) == 64
    assert float(down["sparsity_found"]) > float(down["sparsity_asked"]) + 0.1


def test_a_successor_keeps_what_its_base_admits():
    class Dead(SparseGPT):
        def prune(self, layer, pattern, stats):
            pruned = super().prune(layer, pattern, stats)
            keep_OI = pruned.keep_OI.clone()
            keep_OI[:, :16] = False
            more = keep_OI.numel()
            return replace(pruned, keep_OI=keep_OI, weight_OI=pruned.weight_OI * keep_OI, more=more)

    assert walked(Swaps(Dead("layer", 0.01, 8), 2, 4))


# --- the numbers behind it --------------------------------------------------------------------------------------------


def test_a_layer_of_zeros_loses_nothing():
    gram_II, zero_OI = torch.eye(4), torch.zeros(3, 4)
    assert relative_error(gram_II, zero_OI, zero_OI) == 0
    dead_II = torch.zeros(4, 4)
    assert relative_error(dead_II, torch.rand(3, 4), zero_OI) == 0
    weight_OI = torch.rand(3, 4)
    change_OI = weight_OI * 0.5
    expected = (layer_loss(gram_II, change_OI) / layer_loss(gram_II, weight_OI)).sqrt()
    assert relative_error(gram_II, weight_OI, change_OI) == expected


@pytest.mark.parametrize("damp", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e5, 1e30])
def test_damping_ends_whatever_it_begins_with(damp):
    tried = []

    def attempt(used):
        tried.append(used)
        assert len(tried) < 1000
        return torch.eye(2), torch.tensor(1)

    with pytest.raises(ValueError, match="no Cholesky factor of a Gram matrix"):
        retry(attempt, damp)


def test_the_layer_errors_of_a_layer_of_zeros_are_numbers(work):
    from checkpoints import save, tiny

    loaded = tiny()
    loaded.model.model.layers[0].mlp.up_proj.weight.zero_()
    save(loaded, work / "own")
    found = run(*MEASURED, "model=local", "model.path=own", "method=wanda", "corrector=optimal", "layer_error=true")
    errors = [float(row[column]) for row in found.layers for column in ("error_before", "relative_error")]
    assert all(map(math.isfinite, errors))
    assert 0.0 in errors

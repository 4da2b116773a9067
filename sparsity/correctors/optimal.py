"""Optimal: the best values of the survivors. Per row, min_w (w - w0) (G + damp * mean(diag G) * I) (w - w0)', w = 0 where removed.

It starts from the weights of the method and takes `steps` steps of preconditioned conjugate gradients, or, with a box
|w - w_given| <= max_change * |w0|, of a projected method (see `quadratic`). The damping protects against a Gram matrix of few
tokens. It is not part of the layer loss L(W) = tr((W - W0) G (W - W0)'), which must not rise: the change D of each row is scaled by
t = clip(-<D, (W - W0) G> / <D, D G>, 0, 1). Both inner products follow from the residuals before and after, without another product
with G. O(steps O I^2) time; exact solutions of all rows would take O(O I^3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..core import Corrected, Layer, Pruned, Site, Stats
from ..linalg import double, line_search, never_worse, row_dot
from ..quadratic import (
    Spiked,
    boxed,
    conjugate_gradients,
    projected,
    rows_of_panel,
    spiked,
    strong_directions,
    unit_diagonal,
)
from ..ranges import Ridge, Share, Steps, checked
from ..statistics import GramState
from .channels import Change, share
from .selection import GRAM, Salience, Select, Selective


@dataclass(frozen=True)
@checked
class Optimal(Selective):
    """The corrector that gives the survivors of each row their best values, by conjugate gradients."""

    steps: Steps  # products of the size of the layer
    damp: Ridge  # a fraction of mean(diag G)
    max_change: Change | None  # of a weight, as a fraction of its dense value; None: no box
    precision: Literal["float32", "float64"]  # at least; as wide as the Gram and the layer in any case
    select: Select
    fraction: Share  # of the channels with a survivor; `all` does not read it
    salience: Salience

    def products(self, site: Site, outputs: int, inputs: int) -> float:
        """One a step, and three around them; a box takes a second product in each step."""
        return 3.0 + self.steps * (1 if self.max_change is None else 2)

    def system(self, state: GramState) -> Spiked:
        dtype = torch.promote_types(getattr(torch, self.precision), state.gram_II.dtype)
        gram_II = double(state.gram_II) if dtype == torch.float64 else state.gram_II.to(dtype)
        # steps in a box use no preconditioner
        return spiked(
            unit_diagonal(gram_II, self.damp), strong_directions(len(gram_II)) if self.max_change is None else 0
        )

    def correct(self, layer: Layer, pruned: Pruned, stats: Stats) -> Corrected:
        system = stats.derived(GRAM, self.system)
        home, dtype = system.matrix_II.device, torch.promote_types(system.matrix_II.dtype, layer.weight_OI.dtype)
        system = Spiked(*(part.to(dtype) for part in system))
        chosen = self.selection.choose(stats, pruned.keep_OI)
        chosen_I = torch.zeros_like(pruned.keep_OI[0]).index_fill(0, chosen.channel_S, True).to(home)
        # rows are independent problems, so a panel of them stays in the cache for all steps
        rows = rows_of_panel(layer.weight_OI.shape[1])

        def compute(dense_PI: Tensor, given_PI: Tensor, keep_PI: Tensor) -> tuple[Tensor, ...]:
            return self._rows(system, dense_PI.to(home, dtype), given_PI.to(home, dtype), keep_PI.to(home) & chosen_I)

        whole = stats.by_rows(compute, rows, layer.weight_OI, pruned.weight_OI, pruned.keep_OI)
        target_OI, t_O, free_O, clamped_O, start_O, rest_O = whole
        corrected_OI = target_OI.to(layer.weight_OI)
        if layer.weight_OI.dtype != dtype:
            gram_II = stats[GRAM].gram_II
            corrected_OI = never_worse(gram_II, layer.weight_OI, pruned.weight_OI, corrected_OI)
        facts = {
            **chosen.facts,
            "applied": share((corrected_OI != pruned.weight_OI).sum(), free_O),
            "clamped": share(clamped_O, free_O),
            "line_search": t_O.mean().item(),
            "residual": (rest_O.norm() / start_O.norm().clamp(min=torch.finfo(dtype).tiny)).item(),
        }
        return Corrected(corrected_OI, facts)

    def _rows(self, system: Spiked, dense_PI: Tensor, given_PI: Tensor, free_PI: Tensor) -> tuple[Tensor, ...]:
        """The corrected rows; per row t, the numbers of free and of clamped weights, and the residual norms before and after."""
        matrix_II, scale_I, damping, low_IK, pairs_IJ = system
        free_PI = free_PI.to(dense_PI.dtype)  # ones and zeros: a product with a boolean takes five times as long
        error_PI = given_PI - dense_PI
        scaled_PI = error_PI / scale_I
        pull_PI = (scaled_PI @ matrix_II).neg_()
        damped_loss_P = -row_dot(scaled_PI, pull_PI)
        if self.max_change is None:
            change_PI, residual_PI = conjugate_gradients(matrix_II, pull_PI, free_PI, self.steps, low_IK, pairs_IJ)
            start_PI, rest_PI = pull_PI.mul_(free_PI), residual_PI
            clamped_P = torch.zeros_like(free_PI[:, 0])
        else:
            limit_PI = (self.max_change * dense_PI.abs() / scale_I).mul_(free_PI)
            change_PI, residual_PI = boxed(matrix_II, pull_PI, limit_PI, self.steps)
            rest_PI = projected(residual_PI, change_PI, limit_PI)
            start_PI = projected(pull_PI, torch.zeros_like(pull_PI), limit_PI)
            clamped_P = (change_PI.abs() >= limit_PI).mul(free_PI).sum(1)

        step_PI = change_PI * scale_I
        slope_P = -row_dot(change_PI, pull_PI) - damping * row_dot(step_PI, error_PI)
        curvature_P = (
            row_dot(change_PI, pull_PI) - row_dot(change_PI, residual_PI) - damping * row_dot(step_PI, step_PI)
        )
        t_P = line_search(slope_P, curvature_P)
        gain_P = -t_P * (2 * slope_P + t_P * curvature_P)
        # A gain within the rounding of these sums may be a loss.
        t_P = t_P.where(gain_P > 10 * torch.finfo(given_PI.dtype).eps * damped_loss_P, 0)
        target_PI = torch.addcmul(given_PI, step_PI, t_P[:, None])
        return target_PI, t_P, free_PI.sum(1), clamped_P, start_PI.norm(dim=1), rest_PI.norm(dim=1)

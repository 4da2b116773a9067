"""Mutants of the methods that begin where another ends."""

from __future__ import annotations

from mutant import Mutant

DSNOT, EXCHANGE, PURSUIT = (f"sparsity/methods/{name}.py" for name in ("dsnot", "exchange", "pursuit"))
SWAPPED, PURSUED = "tests/methods/test_swaps.py", "tests/methods/test_pursuit.py"

SUCCESSORS = (
    Mutant("a swap without its cross term", EXCHANGE, "(pair_RCC + value_RC", "(0 * pair_RCC + value_RC", SWAPPED),
    Mutant("a swap that the next one does not see", EXCHANGE, ".mul_(better_R[:, None])", ".mul_(0)", SWAPPED),
    Mutant("a swap across groups", EXCHANGE, "    if group:", "    if False:", SWAPPED),
    Mutant("a sweep repeats a weight's move", EXCHANGE, ".where(~better_R, torch.inf)", "", SWAPPED),
    Mutant(
        "a revived weight is dense whatever the base made of it",
        "sparsity/methods/swaps.py",
        "pruned.weight_OI.where(pruned.keep_OI, layer.weight_OI)",
        "layer.weight_OI.clone()",
        SWAPPED,
    ),
    Mutant("a trade at a loss", EXCHANGE, "(gain_RC > cost_RC) & ", "", PURSUED),
    Mutant("a trade of the worst pairs", EXCHANGE, "gain_RI.topk(most)", "gain_RI.topk(most, largest=False)", PURSUED),
    Mutant(
        "an exchange is kept whatever it costs",
        PURSUIT,
        "(loss_R < loss_P[row_R]) & (tried_R > 0)",
        "tried_R > 0",
        PURSUED,
    ),
    Mutant("rows tire of nothing", PURSUIT, "tried_R // 2", "tried_R", PURSUED),
    Mutant(
        "leverages without their products",
        "sparsity/quadratic.py",
        "mul_(2 - (a_J == b_J).to(low_IK))",
        "mul_(1)",
        "tests/core/test_quadratic.py",
    ),
    Mutant("DSnoT's sign", DSNOT, "sign_R1 * effect_RI < 0", "sign_R1 * effect_RI > 0", "tests/methods/test_dsnot.py"),
    Mutant(
        "DSnoT overshoots",
        DSNOT,
        "error_after_R.abs() < error_R.abs()",
        "error_after_R.isfinite()",
        "tests/methods/test_dsnot.py",
    ),
)

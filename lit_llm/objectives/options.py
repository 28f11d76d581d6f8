"""What losses can be told apart from tensors. Without torch, so that a configuration is checked by it too."""

from __future__ import annotations

import math

from lit_llm.errors import UserError

SCALES = ("none", "group", "batch")
AGGREGATIONS = ("token_mean", "sequence_mean", "constant")
RATIOS = ("token", "sequence")


def check_ratio(ratio: str, delta: float | None, eps_high: float) -> None:
    """Raises UserError for a ratio of another kind, or a bound that would cut into the clip's range."""
    if ratio not in RATIOS:
        raise UserError(f"ratio: {ratio}; must be one of {', '.join(RATIOS)}")
    if delta is not None and not 1 + eps_high < delta < math.inf:
        raise UserError(f"delta: {delta}; must be above 1 + eps_high = {1 + eps_high:g}, or null")


def check_kto(beta: float, desirable_weight: float, undesirable_weight: float) -> None:
    """Raises UserError for options that cannot be."""
    for name, value in {
        "beta": beta,
        "desirable_weight": desirable_weight,
        "undesirable_weight": undesirable_weight,
    }.items():
        if not (0 < value < math.inf):
            raise UserError(f"stage.{name}: {value}; must be above 0")

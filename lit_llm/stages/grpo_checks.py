"""What GRPO is given, checked before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lit_llm.errors import UserError
from lit_llm.objectives.group import AGGREGATIONS, SCALES, check_ratio
from lit_llm.stages.on_policy_checks import not_negative, positive

KL_PLACES = ("loss", "reward")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises UserError naming the first value that makes no sense."""
    if options["group_size"] < 2:
        raise UserError(
            f"stage.group_size: {options['group_size']}; must be 2 or more, to measure an answer by its group"
        )
    for name, allowed in (("scale", SCALES), ("aggregation", AGGREGATIONS), ("kl_in", KL_PLACES)):
        if options[name] not in allowed:
            raise UserError(f"stage.{name}: {options[name]}; must be one of {', '.join(allowed)}")
    positive(options, "eps_low", "eps_high", "validation_samples")
    not_negative(options, "kl_coef")
    if options["eps_low"] >= 1:
        raise UserError(f"stage.eps_low: {options['eps_low']}; must be below 1, as no ratio is below 0")
    check_ratio(options["ratio"], options.get("delta"), options["eps_high"], "stage.")

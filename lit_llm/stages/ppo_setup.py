"""What PPO is given, checked before anything is sampled, and the value network made from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from lit_llm.backbone.heads import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.stages.on_policy_checks import not_negative, positive


def check_options(options: Mapping[str, Any]) -> None:
    """PPO's own options. Raises UserError naming the first value that makes no sense."""
    positive(options, "clip_range", "value_clip_range", "value_lr_ratio", "adaptive_kl_horizon")
    not_negative(options, "kl_coef", "vf_coef", "missing_eos_penalty")
    for name in ("gamma", "lam"):
        if not 0 <= options[name] <= 1:
            raise UserError(f"stage.{name}: {options[name]}; must be between 0 and 1")
    if not options.get("adaptive_kl_target", 1) > 0:
        raise UserError(f"stage.adaptive_kl_target: {options['adaptive_kl_target']}; must be above 0, or null")


def value_network(model: LanguageModel, reward: Any, init: str) -> ScoreModel:
    """A copy of the reward model where there is one and ``init`` is "reward"; else of the policy, with a zero head."""
    if init not in ("reward", "zero"):
        raise UserError(f"stage.value_init: {init}; must be reward or zero")
    learned = getattr(reward, "model", None)
    if init == "reward" and isinstance(learned, ScoreModel):
        return copy.deepcopy(learned).requires_grad_(True)
    value = ScoreModel.from_language_model(model)
    nn.init.zeros_(value.score.weight)
    return value

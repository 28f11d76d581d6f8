"""What PPO is given, checked before anything is sampled, and the value network made from it."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from lit_llm.backbone.lora import apply_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.stages.on_policy_checks import not_negative, positive


def check_options(options: Mapping[str, Any]) -> None:
    """PPO's own options. Raises UserError naming the first value that makes no sense."""
    positive(options, "clip_range", "value_clip_range", "value_lr_ratio", "adaptive_kl_horizon")
    not_negative(options, "kl_coef", "vf_coef", "ptx_coef")
    if not options.get("missing_eos_penalty", 0) >= 0:
        raise UserError(f"stage.missing_eos_penalty: {options['missing_eos_penalty']}; must be 0 or more, or null")
    for name in ("gamma", "lam"):
        if not 0 <= options[name] <= 1:
            raise UserError(f"stage.{name}: {options[name]}; must be between 0 and 1")
    if not 0 < options.get("clip_range_high", 1) < math.inf:
        raise UserError(f"stage.clip_range_high: {options['clip_range_high']}; must be above 0, or null")
    if not options.get("adaptive_kl_target", 1) > 0:
        raise UserError(f"stage.adaptive_kl_target: {options['adaptive_kl_target']}; must be above 0, or null")


def value_network(model: LanguageModel, reward: Any, init: str, adapters: Adapters | None = None) -> ScoreModel:
    """The reward model where there is one and ``init`` is "reward"; else the policy's transformer with a zero head.

    Without ``adapters`` it is a copy, all of whose weights are trained. With them it shares the frozen weights of its
    origin, and only its own adapters and head are trained: no second copy of anything large. To be called before the
    policy gets adapters of its own.
    """
    if init not in ("reward", "zero"):
        raise UserError(f"stage.value_init: {init}; must be reward or zero")
    learned = score_model_in(reward) if init == "reward" else None
    if adapters is None:
        if learned is not None:
            return copy.deepcopy(learned).requires_grad_(True)
        value = ScoreModel.from_language_model(model)
    else:
        value = _sharing(model if learned is None else learned)
        apply_lora(value, adapters.rank, adapters.alpha, 0.0, adapters.targets)
    if learned is None:
        nn.init.zeros_(value.score.weight)
    return value


class Adapters(NamedTuple):
    """What ``apply_lora`` needs to know."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


def score_model_in(reward: Any) -> ScoreModel | None:
    """The first reward model that a reward, or a part of it, is made of."""
    if isinstance(reward, nn.Module):
        networks = (module for module in reward.modules() if isinstance(module, ScoreModel))
        return next((network for network in networks if network.label is None), None)
    learned = getattr(reward, "model", None)
    return learned if isinstance(learned, ScoreModel) else None


def _sharing(origin: LanguageModel | ScoreModel) -> ScoreModel:
    """A score model around the very weights of ``origin``'s transformer, with a head of its own."""
    weight = origin.backbone.embed_tokens.weight
    with torch.device("meta"):
        value = ScoreModel(origin.config)
    value.backbone = copy.deepcopy(origin.backbone, {id(each): each for each in origin.backbone.parameters()})
    value.score = nn.Linear(weight.shape[1], 1, bias=False, device=weight.device, dtype=weight.dtype)
    value.reward_mean, value.reward_std = (make((), device=weight.device) for make in (torch.zeros, torch.ones))
    if isinstance(origin, ScoreModel):
        value.score.load_state_dict(origin.score.state_dict())
        value.reward_mean, value.reward_std = origin.reward_mean.clone(), origin.reward_std.clone()
    return value

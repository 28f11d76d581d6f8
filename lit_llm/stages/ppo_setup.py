"""The value network of PPO, made from what PPO is given."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from lit_llm.backbone.adapter_folder import go_on
from lit_llm.backbone.lora import adapted, apply_lora
from lit_llm.backbone.models import LanguageModel, ScoreModel, device_beside
from lit_llm.rewards.base import as_reward
from lit_llm.stages.options import PPOOptions


def value_network(model: LanguageModel, reward: Any, options: PPOOptions) -> ScoreModel:
    """The reward model where there is one and ``value_init`` is "reward"; else the policy's transformer with a zero
    head.

    Without adapters it is a copy, all of whose weights are trained. With them it shares the frozen weights of its
    origin, and only its own adapters and head are trained: no second copy of anything large. To be called before the
    policy gets adapters of its own.
    """
    learned = score_model_in(reward) if options.value_init == "reward" else None
    if not options.lora_rank:
        if learned is not None:
            return copy.deepcopy(learned).requires_grad_(True)
        value = ScoreModel.from_language_model(model)
    else:
        value = _sharing(model if learned is None else learned)
        if adapted(value):  # the policy's, from a copy of its own on
            go_on(value, **options.adapters())
        else:
            apply_lora(value, **options.adapters())
    if learned is None:
        nn.init.zeros_(value.score.weight)
    return value


def score_model_in(reward: Any) -> ScoreModel | None:
    """The first reward model that a reward, or a part of it, is made of."""
    return next((network for network in as_reward(reward).score_models() if network.label is None), None)


def _sharing(origin: LanguageModel | ScoreModel) -> ScoreModel:
    """A score model around the very weights of ``origin``'s transformer, with a head of its own."""
    weight = origin.backbone.embed_tokens.weight
    with torch.device("meta"):
        value = ScoreModel(origin.config)
    shared = [each for name, each in origin.backbone.named_parameters() if ".lora_" not in name]
    value.backbone = copy.deepcopy(origin.backbone, {id(each): each for each in shared})
    value.folder, value.drawn_from = origin.folder, origin.drawn_from
    device = device_beside(weight)
    value.score = nn.Linear(weight.shape[1], 1, bias=False, device=device, dtype=weight.dtype)
    value.reward_mean, value.reward_std = (make((), device=device) for make in (torch.zeros, torch.ones))
    if isinstance(origin, ScoreModel):
        value.score.load_state_dict(origin.score.state_dict())
        value.reward_mean, value.reward_std = origin.reward_mean.clone(), origin.reward_std.clone()
    return value

"""What PPO is given, checked before anything is sampled, and the value network made from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from lit_llm.backbone.heads import LanguageModel, ScoreModel
from lit_llm.errors import UserError

_POSITIVE = (
    "clip_range", "value_clip_range", "epochs", "minibatches", "temperature", "max_new_tokens", "value_lr_ratio",
    "adaptive_kl_horizon",
)  # fmt: skip


def check_options(options: Mapping[str, Any]) -> None:
    """Raises UserError naming the first value that makes no sense."""
    for name in _POSITIVE:
        if not options[name] > 0:
            raise UserError(f"stage.{name}: {options[name]}; must be above 0")
    for name in ("kl_coef", "vf_coef", "missing_eos_penalty", "max_grad_norm"):
        if not options[name] >= 0:
            raise UserError(f"stage.{name}: {options[name]}; must be 0 or more")
    for name in ("gamma", "lam"):
        if not 0 <= options[name] <= 1:
            raise UserError(f"stage.{name}: {options[name]}; must be between 0 and 1")
    if options.get("micro_batch_size", 1) < 1:
        raise UserError(f"stage.micro_batch_size: {options['micro_batch_size']}; must be 1 or more, or null")
    for name in ("target_kl", "adaptive_kl_target"):
        if not options.get(name, 1) > 0:
            raise UserError(f"stage.{name}: {options[name]}; must be above 0, or null")


def answer_ends(given: tuple[int, ...] | None, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """The tokens that end an answer: as given, or the tokenizer's."""
    ids = tuple(given) if given is not None else tuple(tokenizer.end_ids) if tokenizer is not None else ()
    if not ids or not all(0 <= i < vocab_size for i in ids):
        raise UserError(f"stage.end_ids: {list(ids)}; give the tokens that end an answer, from 0 to {vocab_size - 1}")
    return ids


def fitting_reward(reward: Any, model: LanguageModel, tokenizer: Any) -> Any:
    """The reward, if it can score this policy's answers; a network is frozen."""
    if not callable(reward) and not hasattr(reward, "score_tokens"):
        raise UserError(f"reward: {type(reward).__name__} cannot be called; see conf/reward/")
    if not hasattr(reward, "score_tokens") and tokenizer is None:
        raise UserError(f"reward: {type(reward).__name__} reads texts, but there is no tokenizer to make them")
    config = getattr(getattr(reward, "model", None), "config", None)
    if config is not None and config.vocab_size != model.config.vocab_size:
        raise UserError(
            f"reward: the reward model's vocabulary has {config.vocab_size} tokens, the policy's "
            f"{model.config.vocab_size}; train the reward model from the same model"
        )
    if hasattr(reward, "check_tokenizer"):
        reward.check_tokenizer(tokenizer)
    return reward.requires_grad_(False).eval() if isinstance(reward, nn.Module) else reward


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

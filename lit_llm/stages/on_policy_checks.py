"""What a policy that learns from its own answers is given, checked before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from lit_llm.backbone.models import ScoreModel
from lit_llm.errors import UserError


def check_sampling(options: Mapping[str, Any]) -> None:
    """The options of every on-policy stage. Raises UserError naming the first value that makes no sense."""
    positive(options, "epochs", "minibatches", "temperature", "max_new_tokens")
    not_negative(options, "max_grad_norm", "lora_rank")
    if options.get("micro_batch_size", 1) < 1:
        raise UserError(f"stage.micro_batch_size: {options['micro_batch_size']}; must be 1 or more, or null")
    if not options.get("target_kl", 1) > 0:
        raise UserError(f"stage.target_kl: {options['target_kl']}; must be above 0, or null")
    if not options.get("reward_validation_every_n_steps", 1) >= 1:
        raise UserError(
            f"stage.reward_validation_every_n_steps: {options['reward_validation_every_n_steps']}; "
            "must be 1 or more, or null"
        )


def check_minibatches(prompts: int, group_size: int, minibatches: int) -> None:
    """Raises UserError where a rollout cannot be shared out evenly over its updates."""
    answers = prompts * group_size
    if answers % minibatches:
        groups = f" x stage.group_size={group_size}" if group_size > 1 else ""
        raise UserError(
            f"stage.minibatches: {minibatches}; must divide the rollout's {answers} answers (data.micro_batch_size="
            f"{prompts} prompts{groups})"
        )


def positive(options: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not options[name] > 0:
            raise UserError(f"stage.{name}: {options[name]}; must be above 0")


def not_negative(options: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if not options[name] >= 0:
            raise UserError(f"stage.{name}: {options[name]}; must be 0 or more")


def answer_ends(given: Sequence[int] | None, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """The tokens that end an answer: as given, or the tokenizer's."""
    ids = tuple(given) if given is not None else tuple(tokenizer.end_ids) if tokenizer is not None else ()
    if not ids or not all(0 <= i < vocab_size for i in ids):
        raise UserError(f"stage.end_ids: {list(ids)}; give the tokens that end an answer, from 0 to {vocab_size - 1}")
    return ids


def check_room(longest: int, max_new_tokens: int, context: int) -> None:
    """Raises UserError where the longest prompt leaves no room for an answer of full length in the model's context."""
    if longest + max_new_tokens > context:
        raise UserError(
            f"stage.max_new_tokens={max_new_tokens}: the longest prompt has {longest} tokens, and the model's context "
            f"holds {context}; shorten prompts (data.max_prompt_length={context - max_new_tokens}, "
            "data.on_error=skip) or answers"
        )


def check_reward_room(reward: Any, longest: int, max_new_tokens: int, name: str = "reward") -> None:
    """Raises UserError where a reward model, or one that a reward is made of, cannot read the longest prompt with an
    answer of full length.
    """
    for part, each in getattr(reward, "parts", {}).items():
        check_reward_room(each, longest, max_new_tokens, f"{name}.parts.{part}")
    networks = list(reward.modules()) if isinstance(reward, nn.Module) else [getattr(reward, "model", None)]
    room = min((each.config.max_positions for each in networks if isinstance(each, ScoreModel)), default=None)
    if room is not None and longest + max_new_tokens > room:
        raise UserError(
            f"{name}: its model reads up to {room} tokens, but the longest prompt has {longest} and "
            f"stage.max_new_tokens={max_new_tokens}; shorten prompts (data.max_prompt_length={room - max_new_tokens}, "
            "data.on_error=skip) or answers"
        )

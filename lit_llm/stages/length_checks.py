"""Whether the longest prompt leaves room for an answer of full length, asked before anything is sampled."""

from __future__ import annotations

from lit_llm.errors import UserError
from lit_llm.rewards.base import Reward


def check_answer_fits(longest: int, max_new_tokens: int, context: int) -> None:
    """Raises UserError where the longest prompt leaves no room for an answer of full length in the model's context."""
    if longest + max_new_tokens > context:
        raise UserError(
            f"stage.max_new_tokens={max_new_tokens}: the longest prompt has {longest} tokens, and the model's context "
            f"holds {context}; shorten prompts (data.max_prompt_length={context - max_new_tokens}, "
            "data.on_error=skip) or answers"
        )


def check_reward_fits(reward: Reward, longest: int, max_new_tokens: int, name: str = "reward") -> None:
    """Raises UserError where a reward model, or one that a reward is made of, cannot read the longest prompt with an
    answer of full length.
    """
    for part, each in reward.parts.items():
        check_reward_fits(each, longest, max_new_tokens, f"{name}.parts.{part}")
    room = min((each.config.max_positions for each in reward.score_models()), default=None)
    if room is not None and longest + max_new_tokens > room:
        raise UserError(
            f"{name}: its model reads up to {room} tokens, but the longest prompt has {longest} and "
            f"stage.max_new_tokens={max_new_tokens}; shorten prompts (data.max_prompt_length={room - max_new_tokens}, "
            "data.on_error=skip) or answers"
        )

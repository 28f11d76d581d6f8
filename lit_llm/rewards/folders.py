"""Which reward models' folders a reward reads: what the validation before reinforcement learning is asked of."""

from __future__ import annotations

from typing import Any

from lit_llm.rewards.base import as_reward


def folders_of(*rewards: Any) -> tuple[str, ...]:
    """The folders of these rewards and of all that they are made of, each once, in their order."""
    found: dict[str, None] = {}
    for reward in rewards:
        found |= dict.fromkeys(as_reward(reward).folders)
    return tuple(found)

"""Which reward models' folders a reward reads: what the validation before reinforcement learning is asked of."""

from __future__ import annotations

from typing import Any


def folders_of(*rewards: Any) -> tuple[str, ...]:
    """The folders of these rewards and of all that they are made of, each once, in their order."""
    found: dict[str, None] = {}
    for reward in rewards:
        own = (str(reward.folder),) if getattr(reward, "validated", False) else getattr(reward, "folders", ())
        found |= dict.fromkeys(own)
    return tuple(found)

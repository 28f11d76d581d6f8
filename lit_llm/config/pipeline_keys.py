"""What a pipeline is told beside its stages: whom it asks, what it answers, and what its gains are held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class AnswersConfig:
    """The same questions, answered by the model of every stage, side by side in the report."""

    prompts: list[str] = field(default_factory=list)  # asked of every stage
    heldout_prompts: int = 4  # and so many of the held-out prompts
    max_new_tokens: int = 48
    temperature: float = 0.0  # 0: greedy
    seed: int = 0


@dataclass
class PeopleConfig:
    """How people are asked and waited for (``rankings=ask``)."""

    enough: int = 200  # rankings=ask goes on from so many on
    overlap: int = 1  # people who rank each prompt
    poll_seconds: float = 5.0  # between two looks into the project
    folder: str = "outputs/rankings"  # where rankings=ask keeps its projects


@dataclass
class BestOfNConfig:
    """The control of reinforcement learning: the best of n answers of one step's model by another step's reward."""

    n: int = 0  # answers to each prompt; 0: not measured
    prompts: int = 60  # held-out ones
    model: str = "instruction_tuning"  # the step whose model answers
    proxy: str = "reward_modeling"  # the step whose reward chooses
    gold: Any = None  # the reward that judges the choice: {_target_: ...}; null: none
    max_new_tokens: int = 64
    temperature: float = 0.7
    seed: int = 0
    batch_size: int = 256

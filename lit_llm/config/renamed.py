"""Keys and dotted names of earlier versions: read all the same, with a line that says what they are called now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = {  # of a stage, wherever it stands
    "exam": "reward_validation",
    "ignore_exam": "ignore_reward_validation",
    "exam_every_n_steps": "reward_validation_every_n_steps",
}
TARGETS = {
    "lit_llm.evaluation.reward_exam.RewardExam": "lit_llm.rewards.validation.validator.RewardValidator",
    "lit_llm.loggers.": "lit_llm.training.loggers.",
    "lit_llm.sweep.": "lit_llm.training.sweep.",
}
"""A name, or the beginning of names."""


def target(text: str) -> str:
    """What a dotted path to code is called now."""
    for old, new in TARGETS.items():
        if text.startswith(old):
            return new + text[len(old) :]
    return text


def values(saved: Any, of_stage: bool = False) -> Any:
    """A saved configuration's plain values, by the names of now. ``of_stage``: whether they stand below ``stage``."""
    if isinstance(saved, Mapping):
        return {
            KEYS.get(str(key), key) if of_stage else key: values(value, key == "stage") for key, value in saved.items()
        }
    if isinstance(saved, list):
        return [values(value) for value in saved]
    return target(saved) if isinstance(saved, str) else saved


def word(override: str) -> tuple[str, str | None]:
    """An override by the names of now, and the line that tells of it; None where nothing is renamed."""
    key, equals, value = override.partition("=")
    marks = key[: len(key) - len(key.lstrip("+~"))]
    parts = key[len(marks) :].split(".")
    place = {"stage": 1, "stages": 3 if parts[2:3] == ["stage"] else 2}.get(parts[0], len(parts))
    parts[place : place + 1] = [KEYS.get(part, part) for part in parts[place : place + 1]]
    value = value.replace("exam/", "reward_validation/", 1) if parts[-1] == "monitor" else target(value)
    renamed = f"{marks}{'.'.join(parts)}{equals}{value}"
    return renamed, None if renamed == override else f"{override}: is called {renamed} now"

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


def values(saved: Any) -> Any:
    """A saved configuration's plain values, by the names of now."""
    if isinstance(saved, Mapping):
        return {KEYS.get(str(key), key): values(value) for key, value in saved.items()}
    if isinstance(saved, list):
        return [values(value) for value in saved]
    return target(saved) if isinstance(saved, str) else saved


def word(override: str) -> tuple[str, str | None]:
    """An override by the names of now, and the line that tells of it; None where nothing is renamed."""
    key, equals, value = override.partition("=")
    marks = key[: len(key) - len(key.lstrip("+~"))]
    parts = key[len(marks) :].split(".")
    now = (
        ".".join(KEYS.get(part, part) for part in parts) if "stage" in parts or "stages" in parts else key[len(marks) :]
    )
    renamed = f"{marks}{now}{equals}{target(value)}"
    return renamed, None if renamed == override else f"{override}: is called {renamed} now"

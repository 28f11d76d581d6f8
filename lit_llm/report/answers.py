"""The same prompts answered by each stage, out of answers.json, whatever shape a prompt or an answer has there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answered:
    """A prompt as (role, text) turns, and (stage, answer, note) for each stage that answered it."""

    prompt: tuple[tuple[str, str], ...]
    answers: tuple[tuple[str, str, str], ...]
    heldout: bool = False  # known to be of a held-out set


def answered(file: Mapping[str, Any]) -> Iterator[Answered]:
    """``file``: {"prompts": [...], "answers": {stage: [...]}}, answers in the prompts' order; "heldout", where
    it is there, says of each prompt whether it is of a held-out set."""
    by_stage: Mapping[str, Sequence[Any]] = file.get("answers") or {}
    heldout = list(file.get("heldout") or ())
    for number, prompt in enumerate(file.get("prompts") or ()):
        given = ((stage, *_answer(texts[number])) for stage, texts in by_stage.items() if number < len(texts))
        yield Answered(tuple(_turns(prompt)), tuple(given), number < len(heldout) and heldout[number] is True)


def _turns(prompt: Any) -> Iterator[tuple[str, str]]:
    if isinstance(prompt, Mapping):
        prompt = prompt.get("messages", prompt.get("prompt", prompt.get("text", prompt)))
    if isinstance(prompt, list):
        for message in prompt:
            known = message if isinstance(message, Mapping) else {"content": message}
            yield str(known.get("role", "")), str(known.get("content", ""))
    else:
        yield "", str(prompt)


def _answer(value: Any) -> tuple[str, str]:
    """Its text, and what else is known of it in a few words."""
    if not isinstance(value, Mapping):
        return str(value), ""
    text = value.get("text", value.get("answer", value.get("completion", "")))
    notes = []
    if value.get("ended") is False or value.get("finished") is False:
        notes.append("cut at the limit")
    for key in ("reward", "score", "rule"):
        if isinstance(value.get(key), int | float):
            notes.append(f"{key} {value[key]:.3g}")
    return str(text), ", ".join(notes)

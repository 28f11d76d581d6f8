"""Where annotators disagree most, and the final word on it."""

from __future__ import annotations

from dataclasses import dataclass

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import Card
from lit_llm.feedback.store.judgement import Judgement
from lit_llm.records import Message


@dataclass(frozen=True)
class Opinion:
    pseudonym: str
    ranks: dict[str, int | None]  # by card key
    all_bad: bool
    comment: str


@dataclass(frozen=True)
class Dispute:
    """A task with its annotators' rankings."""

    task_id: int
    agreement: float | None  # share of the pairs of answers, strictly ordered by two annotators, that they order alike
    messages: tuple[Message, ...]
    cards: tuple[Card, ...]
    opinions: tuple[Opinion, ...]
    final: Judgement | None  # what an adjudicator decided


def disputed(store: Store, limit: int = 50, decided: bool = False) -> list[Dispute]:
    """Tasks that two or more annotators ranked, least agreement first; those decided already only when asked."""
    raise NotImplementedError


def dispute(store: Store, task_id: int) -> Dispute:
    """One task's. Raises UserError for a number that is no such task."""
    raise NotImplementedError


def adjudicate(store: Store, admin_id: int, task_id: int, judgement: Judgement) -> None:
    """Keeps ``judgement`` (keys of the dispute's cards) as the task's final ranking; a later one replaces it.

    Raises Invalid; UserError for a task that cannot be adjudicated or an account that may not.
    """
    raise NotImplementedError

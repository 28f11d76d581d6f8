"""An item as its annotator sees it: blind, in an order of the annotator's own."""

from __future__ import annotations

from dataclasses import dataclass

from lit_llm.feedback.store.judgement import Judgement
from lit_llm.records import Message


@dataclass(frozen=True)
class Card:
    key: str  # "A", "B", ... by the place it is shown at: says nothing about where the answer came from
    text: str


@dataclass(frozen=True)
class Item:
    """What a page may know of an assignment: neither models nor whether it is gold or a repeat."""

    assignment_id: int
    task_id: int
    messages: tuple[Message, ...]
    cards: tuple[Card, ...]  # in the order shown, which is drawn by the stored seed
    draft: Judgement | None  # what was saved or submitted last; None before the first save
    version: int  # 0 until something is saved
    state: str  # leased, draft, submitted, skipped
    lease_until: float  # seconds since 1970, UTC
    skip_reason: str = ""

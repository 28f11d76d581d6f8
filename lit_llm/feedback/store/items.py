"""An item as its annotator sees it: blind, in an order of the annotator's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from lit_llm.feedback.store.judgement import SCALES, Flag, Judgement
from lit_llm.feedback.store.tables import (
    AnnotationRevisionRow,
    AnnotationRow,
    AssignmentRow,
    CandidateFeedbackRow,
    CandidateFlagRow,
    CandidateRow,
    PromptRow,
    TaskCandidateRow,
    TaskRow,
)
from lit_llm.records import Message

T = TypeVar("T")

_SPELT_OUT = "order:"


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
    again: bool = False  # opened once more, for its ranking was too fast to count


def shuffle_seed(*parts: object) -> str:
    """A seed for one annotator's view of one task, from the project's seed: stored, so that the order can be told."""
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()


def shown_order(given: Sequence[T], seed: str) -> list[T]:
    """``given`` (by place) in the order shown: by a hash of seed and place, which no release of Python changes.

    Or in the order that the seed spells out (``seed_of_order``), where it was shown elsewhere.
    """
    if seed.startswith(_SPELT_OUT):
        return [given[ord(letter) - ord("A")] for letter in seed.removeprefix(_SPELT_OUT)]
    places = sorted(range(len(given)), key=lambda place: hashlib.sha256(f"{seed}:{place}".encode()).digest())
    return [given[place] for place in places]


def seed_of_order(places: Sequence[int]) -> str:
    """The seed that spells an order out: the places of the candidates (0 to 25) as they were shown."""
    return _SPELT_OUT + "".join(chr(ord("A") + place) for place in places)


def card_keys(count: int) -> list[str]:
    """A, B, C, ..."""
    return [chr(ord("A") + place) for place in range(count)]


def shown_candidates(session: Session, task_id: int, seed: str) -> dict[str, CandidateRow]:
    """Card key -> candidate, in the order shown."""
    places = (
        select(CandidateRow)
        .join(TaskCandidateRow, TaskCandidateRow.candidate_id == CandidateRow.id)
        .where(TaskCandidateRow.task_id == task_id)
        .order_by(TaskCandidateRow.place)
    )
    candidates = shown_order(list(session.scalars(places)), seed)
    return dict(zip(card_keys(len(candidates)), candidates, strict=True))


def load_item(session: Session, assignment: AssignmentRow) -> Item:
    """The assignment with its prompt, cards and what was saved of it."""
    shown = shown_candidates(session, assignment.task_id, assignment.shuffle_seed)
    annotation = session.get_one(AnnotationRow, assignment.id)
    newest = select(AnnotationRevisionRow.action).filter_by(assignment_id=assignment.id, version=annotation.version)
    return Item(
        assignment_id=assignment.id,
        task_id=assignment.task_id,
        messages=messages_of(session, assignment.task_id),
        cards=tuple(Card(key, candidate.text) for key, candidate in shown.items()),
        draft=judgement_of(session, annotation, shown) if annotation.version else None,
        version=annotation.version,
        state=assignment.state,
        lease_until=assignment.lease_until,
        skip_reason=annotation.skip_reason,
        again=session.scalar(newest) == "again",
    )


def messages_of(session: Session, task_id: int) -> tuple[Message, ...]:
    """The task's prompt."""
    found = select(PromptRow.messages).join(TaskRow, TaskRow.prompt_id == PromptRow.id).where(TaskRow.id == task_id)
    return tuple(Message(**message) for message in session.scalars(found).one())


def judgement_of(session: Session, annotation: AnnotationRow, shown: dict[str, CandidateRow]) -> Judgement:
    """What is kept, by the keys of the cards shown."""
    key_of = {candidate.id: key for key, candidate in shown.items()}
    kept = annotation.ranks or {}
    feedback = session.scalars(select(CandidateFeedbackRow).filter_by(assignment_id=annotation.assignment_id)).all()
    flags = select(CandidateFlagRow).filter_by(assignment_id=annotation.assignment_id).order_by(CandidateFlagRow.id)
    rated = {key_of[row.candidate_id]: {scale: getattr(row, scale) for scale in SCALES} for row in feedback}
    return Judgement(
        ranks={key: kept.get(str(candidate.id)) for key, candidate in shown.items()},
        all_bad=annotation.all_bad,
        comment=annotation.comment,
        ratings={key: scales for key, scales in rated.items() if any(v is not None for v in scales.values())},
        notes={key_of[row.candidate_id]: row.comment for row in feedback if row.comment},
        flags=tuple(
            Flag(key_of[row.candidate_id], row.kind, row.severity, row.start, row.end) for row in session.scalars(flags)
        ),
        seconds=annotation.seconds,
    )

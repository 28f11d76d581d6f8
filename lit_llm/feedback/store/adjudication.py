"""Where annotators disagree most, and the final word on it.

A decision is an assignment like any other, of a task of the kind "adjudication" that stands for the one in dispute: so
it has versions and revisions, and leaves what the annotators said, the adjudicator's own ranking among it, as it was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from lit_llm.errors import UserError
from lit_llm.feedback.store.assignment import assign, copy_candidates
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import Card, judgement_of, messages_of, shown_candidates, shuffle_seed
from lit_llm.feedback.store.judgement import Judgement, checked
from lit_llm.feedback.store.judgements import write_judgement
from lit_llm.feedback.store.pair_order import same_order
from lit_llm.feedback.store.project_settings import settings_in
from lit_llm.feedback.store.refusals import Stale
from lit_llm.feedback.store.revisions import write_revision
from lit_llm.feedback.store.tables import (
    AnnotationRevisionRow,
    AnnotationRow,
    AnnotatorRow,
    AssignmentRow,
    CandidateRow,
    TaskRow,
)
from lit_llm.records import Message

MAY_DECIDE = ("admin", "adjudicator")


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
    version: int  # of the newest decision, whoever made it; 0 without one


def disputed(store: Store, limit: int = 50, decided: bool = False) -> list[Dispute]:
    """Tasks that two or more annotators ranked, least agreement first; those decided already only when asked."""
    several = (
        select(AssignmentRow.task_id)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .where(TaskRow.kind == "normal", AssignmentRow.state == "submitted")
        .group_by(AssignmentRow.task_id)
        .having(func.count() >= 2)
    )
    done = select(TaskRow.of_task).where(TaskRow.kind == "adjudication")
    with store.read() as session:
        tasks = several if decided else several.where(TaskRow.id.not_in(done))
        order = sorted((agreement, task_id) for task_id, agreement in _agreements(session, tasks))
        return [_dispute(session, task_id) for _, task_id in order[:limit]]


def dispute(store: Store, task_id: int) -> Dispute:
    """One task's. Raises UserError for a number that is no such task."""
    with store.read() as session:
        _check_task(session.get(TaskRow, task_id), task_id)
        return _dispute(session, task_id)


def adjudicate(store: Store, admin_id: int, task_id: int, judgement: Judgement, version: int) -> None:
    """Keeps ``judgement`` (keys of the dispute's cards) as the task's final ranking; a later one replaces it.

    ``version``: the dispute's when the decider looked. Raises Stale when somebody decided meanwhile; Invalid; UserError
    for a task that cannot be adjudicated or an account that may not.
    """
    with store.write() as session:
        decider = session.get(AnnotatorRow, admin_id)
        if decider is None or not decider.active or decider.role not in MAY_DECIDE:
            raise UserError(f"annotator {admin_id}: may not adjudicate; {' and '.join(MAY_DECIDE)} may")
        task = session.scalar(select(TaskRow).where(TaskRow.id == task_id).with_for_update())
        _check_task(task, task_id)
        if (newest := _version(session, task_id)) != version:
            raise Stale(newest)
        settings, now = settings_in(session), store.now()
        shown = shown_candidates(session, task_id, _seed(task_id))
        kept = checked(judgement, {key: card.text for key, card in shown.items()}, settings, submit=True)
        assignment = _decision(session, task_id, admin_id, now)
        annotation = session.get_one(AnnotationRow, assignment.id)
        write_judgement(session, annotation, kept, shown)
        assignment.state, assignment.lease_until, assignment.finished_at = "submitted", now, now
        write_revision(session, annotation, "adjudicate", now)


def _decision(session: Session, task_id: int, admin_id: int, now: float) -> AssignmentRow:
    """The decider's assignment, made where there is none. The disputed task is held."""
    first = session.get_one(TaskRow, task_id)
    task = session.scalar(select(TaskRow).where(TaskRow.key == f"adjudication:{task_id}"))
    if task is None:
        task = TaskRow(
            prompt_id=first.prompt_id, kind="adjudication", key=f"adjudication:{task_id}", overlap=1,
            priority=0.0, of_task=task_id, created_at=now,
        )  # fmt: skip
        session.add(task)
        session.flush()
        copy_candidates(session, task_id, task.id)
    own = session.scalar(select(AssignmentRow).filter_by(task_id=task.id, annotator_id=admin_id))
    return own or assign(session, task.id, admin_id, _seed(task_id), now, now)


def _dispute(session: Session, task_id: int) -> Dispute:
    shown = shown_candidates(session, task_id, _seed(task_id))
    found = session.execute(
        select(AnnotatorRow.pseudonym, AnnotationRow)
        .join(AssignmentRow, AssignmentRow.id == AnnotationRow.assignment_id)
        .join(AnnotatorRow, AnnotatorRow.id == AssignmentRow.annotator_id)
        .where(AssignmentRow.task_id == task_id, AssignmentRow.state == "submitted")
        .order_by(AnnotatorRow.id)
    )
    opinions = [
        Opinion(pseudonym, _ranks(annotation, shown), annotation.all_bad, annotation.comment)
        for pseudonym, annotation in found
    ]
    return Dispute(
        task_id,
        _share([list(opinion.ranks.values()) for opinion in opinions]),
        messages_of(session, task_id),
        tuple(Card(key, candidate.text) for key, candidate in shown.items()),
        tuple(opinions),
        _final(session, task_id, shown),
        _version(session, task_id),
    )


def _version(session: Session, task_id: int) -> int:
    """The number of the newest revision of any decider: each decision has a higher one than those before."""
    revisions = (
        select(func.max(AnnotationRevisionRow.id))
        .join(AssignmentRow, AssignmentRow.id == AnnotationRevisionRow.assignment_id)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .where(TaskRow.key == f"adjudication:{task_id}")
    )
    return session.scalar(revisions) or 0


def _final(session: Session, task_id: int, shown: dict[str, CandidateRow]) -> Judgement | None:
    newest = (
        select(AnnotationRow)
        .join(AssignmentRow, AssignmentRow.id == AnnotationRow.assignment_id)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .where(TaskRow.key == f"adjudication:{task_id}", AssignmentRow.state == "submitted")
        .order_by(AnnotationRow.updated_at.desc(), AssignmentRow.id.desc())
        .limit(1)
    )
    annotation = session.scalar(newest)
    return None if annotation is None else judgement_of(session, annotation, shown)


def _agreements(session: Session, tasks: Select[int]) -> Iterator[tuple[int, float]]:
    """(task, agreement) for sorting: a task without a pair that two annotators order strictly comes last."""
    found = session.execute(
        select(AssignmentRow.task_id, AnnotationRow.ranks)
        .join(AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id)
        .where(AssignmentRow.task_id.in_(tasks), AssignmentRow.state == "submitted")
        .order_by(AssignmentRow.task_id)
    )
    for task_id, group in itertools.groupby(found, key=lambda row: row.task_id):
        rankings = [row.ranks or {} for row in group]
        names = sorted(rankings[0])
        share = _share([[ranks.get(name) for name in names] for ranks in rankings])
        yield task_id, 2.0 if share is None else share


def _share(rankings: Sequence[Sequence[int | None]]) -> float | None:
    counts = [same_order(one, two) for i, one in enumerate(rankings) for two in rankings[i + 1 :]]
    total = sum(pairs for _, pairs in counts)
    return sum(alike for alike, _ in counts) / total if total else None


def _ranks(annotation: AnnotationRow, shown: dict[str, CandidateRow]) -> dict[str, int | None]:
    return {key: (annotation.ranks or {}).get(str(candidate.id)) for key, candidate in shown.items()}


def _check_task(task: TaskRow | None, task_id: int) -> None:
    if task is None or task.kind != "normal":
        raise UserError(f"task {task_id}: is no task that annotators rank; the admin page lists those in dispute")


def _seed(task_id: int) -> str:
    """The order in which deciders see a task's cards: one for all, unlike that of its annotators."""
    return shuffle_seed("adjudication", task_id)

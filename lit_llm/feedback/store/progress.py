"""How far a project is."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lit_llm.feedback.store.assignment import OPEN
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.pair_order import same_order
from lit_llm.feedback.store.project_settings import settings_in
from lit_llm.feedback.store.tables import AnnotationRow, AnnotatorRow, AssignmentRow, TaskCandidateRow, TaskRow


@dataclass(frozen=True)
class AnnotatorProgress:
    annotator_id: int
    name: str
    pseudonym: str
    submitted: int  # rankings of normal items
    skipped: int
    too_fast: int  # of all submitted
    open: int  # leased or draft
    median_seconds: float | None
    gold: int  # gold items answered
    gold_accuracy: float | None  # pairs of gold items ordered as known, as agreement.gold_accuracy; too fast ones out
    repeats: int
    last_at: float | None  # seconds since 1970, UTC


@dataclass(frozen=True)
class Progress:
    tasks: int  # normal items
    complete: int  # those with all their rankings, too fast ones left out
    rankings: int  # submitted for normal items, too fast ones left out
    wanted: int  # the target, else the sum of the items' overlaps
    possible: int  # rankings that the items have places for: no wait for more of them ends
    too_fast: int
    skipped: int
    open: int
    adjudicated: int
    annotators: tuple[AnnotatorProgress, ...]


@dataclass(frozen=True)
class Counts:
    """What an annotator's page shows of the project."""

    rankings: int  # as in Progress
    wanted: int
    mine: int  # as submitted in AnnotatorProgress


class _Work(NamedTuple):
    """One assignment."""

    id: int
    annotator_id: int
    task_id: int
    kind: str
    state: str
    too_fast: bool
    seconds: float
    finished_at: float | None


def progress(store: Store) -> Progress:
    """Overall and for each annotator. Raises UserError when the database holds no project yet."""
    with store.read() as session:
        target = settings_in(session).target_rankings
        overlaps = dict(session.execute(select(TaskRow.id, TaskRow.overlap).where(TaskRow.kind == "normal")).all())
        work = _work(session)
        normal = [w for w in work if w.kind == "normal"]
        counted = [w for w in normal if w.state == "submitted" and not w.too_fast]
        done = _by_task(counted)
        return Progress(
            tasks=len(overlaps),
            complete=sum(done.get(task, 0) >= overlap for task, overlap in overlaps.items()),
            rankings=len(counted),
            wanted=sum(overlaps.values()) if target is None else target,
            possible=sum(max(overlap, done.get(task, 0)) for task, overlap in overlaps.items()),
            too_fast=sum(w.state == "submitted" and w.too_fast for w in normal),
            skipped=sum(w.state == "skipped" for w in normal),
            open=sum(w.state in OPEN for w in normal),
            adjudicated=len({w.task_id for w in work if w.kind == "adjudication"}),
            annotators=_annotators(session, work),
        )


def counts(store: Store, annotator_id: int) -> Counts:
    """Counted by the database: a page cannot wait for ``progress`` to read every assignment of a large project."""
    given = (
        select(func.count())
        .select_from(AssignmentRow)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .where(TaskRow.kind == "normal", AssignmentRow.state == "submitted")
    )
    slow = given.join(AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id).where(~AnnotationRow.too_fast)
    places = select(func.coalesce(func.sum(TaskRow.overlap), 0)).where(TaskRow.kind == "normal")
    with store.read() as session:
        target = settings_in(session).target_rankings
        return Counts(
            rankings=session.scalar(slow) or 0,
            wanted=(session.scalar(places) or 0) if target is None else target,
            mine=session.scalar(given.where(AssignmentRow.annotator_id == annotator_id)) or 0,
        )


def _work(session: Session) -> list[_Work]:
    found = (
        select(
            AssignmentRow.id,
            AssignmentRow.annotator_id,
            AssignmentRow.task_id,
            TaskRow.kind,
            AssignmentRow.state,
            AnnotationRow.too_fast,
            AnnotationRow.seconds,
            AssignmentRow.finished_at,
        )
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .join(AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id)
        .order_by(AssignmentRow.id)
    )
    return [_Work(*record) for record in session.execute(found)]


def _by_task(work: Iterable[_Work]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for one in work:
        counts[one.task_id] = counts.get(one.task_id, 0) + 1
    return counts


def _annotators(session: Session, work: Sequence[_Work]) -> tuple[AnnotatorProgress, ...]:
    gold = _gold(session)
    people = session.execute(
        select(AnnotatorRow.id, AnnotatorRow.name, AnnotatorRow.pseudonym).order_by(AnnotatorRow.id)
    )
    return tuple(_annotator(who, name, pseudonym, work, gold) for who, name, pseudonym in people)


def _annotator(
    who: int, name: str, pseudonym: str, work: Sequence[_Work], gold: dict[int, tuple[int, int]]
) -> AnnotatorProgress:
    own = [w for w in work if w.annotator_id == who and w.kind != "adjudication"]
    given = [w for w in own if w.state == "submitted"]
    golden = [gold[w.id] for w in given if w.kind == "gold" and not w.too_fast]
    pairs = sum(total for _, total in golden)
    return AnnotatorProgress(
        annotator_id=who,
        name=name,
        pseudonym=pseudonym,
        submitted=sum(w.kind == "normal" for w in given),
        skipped=sum(w.state == "skipped" for w in own),
        too_fast=sum(w.too_fast for w in given),
        open=sum(w.state in OPEN for w in own),
        median_seconds=statistics.median(w.seconds for w in given) if given else None,
        gold=len(golden),
        gold_accuracy=sum(alike for alike, _ in golden) / pairs if pairs else None,
        repeats=sum(w.kind == "repeat" for w in given),
        last_at=max((w.finished_at for w in own if w.finished_at is not None), default=None),
    )


def _gold(session: Session) -> dict[int, tuple[int, int]]:
    """Assignment -> (pairs ordered as known, pairs that are known to differ), for submitted gold items."""
    places: dict[int, list[int]] = {}
    of_gold = (
        select(TaskCandidateRow)
        .join(TaskRow, TaskRow.id == TaskCandidateRow.task_id)
        .where(TaskRow.kind == "gold")
        .order_by(TaskCandidateRow.task_id, TaskCandidateRow.place)
    )
    for row in session.scalars(of_gold):
        places.setdefault(row.task_id, []).append(row.candidate_id)
    answers = (
        select(AssignmentRow.id, TaskRow.id, TaskRow.gold_ranks, AnnotationRow.ranks)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .join(AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id)
        .where(TaskRow.kind == "gold", AssignmentRow.state == "submitted")
    )
    found: dict[int, tuple[int, int]] = {}
    for assignment_id, task_id, known, ranks in session.execute(answers):
        given = [(ranks or {}).get(str(candidate)) for candidate in places[task_id]]
        found[assignment_id] = same_order(known or [], given, ties_differ=True)
    return found

"""Who gets which item: leases, overlap, gold items and repeats.

The law: a normal task never has more than ``overlap`` places taken, where a place is taken by a submitted ranking that
counts (one under the time floor does not) or by an open assignment whose lease lives. Nobody has two assignments of a
task; whose ranking of it was too fast gets it again when nothing else is left. Whoever changes that count holds the
task: on SQLite the whole database is held from BEGIN IMMEDIATE on; elsewhere the task's row is locked, and the places
are counted *after* the lock by a statement of its own. The count in the query that found the task was of a moment
before the lock and may be wrong by then. An annotator's row is locked first, so that two browsers of one person open
one item. A transaction waits for a task's row only while it holds no other task's, so none can wait in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import Card, Item, load_item, shuffle_seed
from lit_llm.feedback.store.project_settings import ProjectSettings, settings_in
from lit_llm.feedback.store.refusals import LeaseLost, NotYours
from lit_llm.feedback.store.revisions import write_revision
from lit_llm.feedback.store.tables import AnnotationRow, AnnotatorRow, AssignmentRow, TaskCandidateRow, TaskRow

__all__ = ["Card", "Item", "next_item", "open_item"]

REPEAT_AFTER = 5  # other items lie at least between an item and its repeat
OPEN = ("leased", "draft")


def next_item(store: Store, annotator_id: int) -> Item | None:
    """The annotator's item that is still open, else a new one under a lease; None when there is nothing left.

    An open item whose lease ended is the annotator's again unless others took all its places. A new one is a gold item
    or a repeat by the project's shares (drawn by seed, annotator and count of items), else the task of the highest
    priority that has a free place; at last one of their own that was ranked too fast. Raises NotYours for an annotator
    that is not there or not active.
    """
    with store.write() as session:
        lock_annotator(session, annotator_id)
        settings, now = settings_in(session), store.now()
        found = _own_open(session, annotator_id, settings, now) or _new(session, annotator_id, settings, now)
        return None if found is None else load_item(session, found)


def open_item(store: Store, annotator_id: int, assignment_id: int) -> Item:
    """An item of the annotator's, open or finished; an open one's lease is renewed. Raises NotYours, LeaseLost."""
    with store.write() as session:
        assignment, task = held(session, annotator_id, assignment_id)
        if assignment.state in OPEN:
            now = store.now()
            if not place_is_theirs(session, assignment, task, now):
                raise LeaseLost
            assignment.lease_until = lease_end(settings_in(session), now)
        return load_item(session, assignment)


def lock_annotator(session: Session, annotator_id: int) -> None:
    """Holds the annotator, so that none of their other requests draws an item meanwhile. Raises NotYours."""
    wanted = select(AnnotatorRow.id).where(AnnotatorRow.id == annotator_id, AnnotatorRow.active)
    if session.scalar(wanted.with_for_update(key_share=True)) is None:
        raise NotYours


def held(session: Session, annotator_id: int, assignment_id: int) -> tuple[AssignmentRow, TaskRow]:
    """The annotator's assignment with its task, which is held until the transaction ends. Raises NotYours."""
    wanted = (
        select(AssignmentRow.task_id)
        .join(AnnotatorRow, AnnotatorRow.id == AssignmentRow.annotator_id)
        .where(AssignmentRow.id == assignment_id, AnnotatorRow.id == annotator_id, AnnotatorRow.active)
    )
    task_id = session.scalar(wanted)
    if task_id is None:
        raise NotYours
    task = _lock(session, task_id)
    if task.kind == "adjudication":
        raise NotYours
    return session.get_one(AssignmentRow, assignment_id, populate_existing=True), task


def place_is_theirs(session: Session, assignment: AssignmentRow, task: TaskRow, now: float) -> bool:
    """Whether the assignment has a place, or can have one: the task is held, so the answer stays true."""
    if task.kind != "normal" or (assignment.state == "submitted" and not _too_fast(session, assignment)):
        return True
    if assignment.state in OPEN and assignment.lease_until > now:
        return True
    return places_taken(session, task.id, now) < task.overlap


def places_taken(session: Session, task_id: int, now: float) -> int:
    """How many rankings that count are given or under way; an assignment without a live lease is not among them."""
    counted = select(func.count()).where(AssignmentRow.task_id == task_id, _takes_a_place(now))
    return session.scalar(counted) or 0


def lease_end(settings: ProjectSettings, now: float) -> float:
    return now + 60 * settings.lease_minutes


def _takes_a_place(now: float) -> ColumnElement[bool]:
    live = and_(AssignmentRow.state.in_(OPEN), AssignmentRow.lease_until > now)
    too_fast = exists().where(AnnotationRow.assignment_id == AssignmentRow.id, AnnotationRow.too_fast)
    return or_(and_(AssignmentRow.state == "submitted", ~too_fast), live)


def _too_fast(session: Session, assignment: AssignmentRow) -> bool:
    found = session.scalar(select(AnnotationRow.too_fast).where(AnnotationRow.assignment_id == assignment.id))
    return bool(found)


def _lock(session: Session, task_id: int) -> TaskRow:
    locked = select(TaskRow).where(TaskRow.id == task_id).with_for_update(key_share=True)
    return session.scalars(locked, execution_options={"populate_existing": True}).one()


def _own_open(session: Session, annotator_id: int, settings: ProjectSettings, now: float) -> AssignmentRow | None:
    """The annotator's open item that was begun first, with its lease renewed."""
    own = (
        select(AssignmentRow.id, AssignmentRow.task_id)
        .where(AssignmentRow.annotator_id == annotator_id, AssignmentRow.state.in_(OPEN))
        .order_by(AssignmentRow.opened_at, AssignmentRow.id)
    )
    return _with_place(session, own, OPEN, settings, now)


def _with_place(
    session: Session, own: Select[int, int], states: Sequence[str], settings: ProjectSettings, now: float
) -> AssignmentRow | None:
    """The first of these assignments (and their tasks) that has a place, or can have one, under a fresh lease."""
    for assignment_id, task_id in session.execute(own).all():
        attempt = session.begin_nested()
        task = _lock(session, task_id)
        assignment = session.get_one(AssignmentRow, assignment_id, populate_existing=True)
        if assignment.state in states and place_is_theirs(session, assignment, task, now):
            assignment.lease_until = lease_end(settings, now)
            attempt.commit()
            return assignment
        attempt.rollback()  # lets the task's row go
    return None


def _again(session: Session, annotator_id: int, settings: ProjectSettings, now: float) -> AssignmentRow | None:
    """The annotator's own ranking that was too fast to count, opened with what it says: nobody else took its place."""
    own = (
        select(AssignmentRow.id, AssignmentRow.task_id)
        .join(AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .where(AssignmentRow.annotator_id == annotator_id, AssignmentRow.state == "submitted", AnnotationRow.too_fast)
        .where(TaskRow.kind == "normal")
        .order_by(AssignmentRow.finished_at, AssignmentRow.id)
    )
    assignment = _with_place(session, own, ("submitted",), settings, now)
    if assignment is not None:
        annotation = session.get_one(AnnotationRow, assignment.id, populate_existing=True)
        assignment.state, annotation.too_fast = "draft", False
        write_revision(session, annotation, "again", now)
    return assignment


def _new(session: Session, annotator_id: int, settings: ProjectSettings, now: float) -> AssignmentRow | None:
    had = session.scalar(select(func.count()).where(AssignmentRow.annotator_id == annotator_id)) or 0
    draw = int(shuffle_seed(settings.seed, "kind", annotator_id, had)[:12], 16) / 16**12
    task_id: int | None = None
    if draw < settings.gold_share:
        task_id = session.scalar(_open_to(annotator_id, "gold").limit(1))
    elif draw < settings.gold_share + settings.repeat_share:
        task_id = _repeat(session, annotator_id, settings, had, now)
    if task_id is None:
        for wanted in (_claim, _only_gold, _again):
            if (found := wanted(session, annotator_id, settings, now)) is not None:
                return found
        return None
    return _lease(session, task_id, annotator_id, settings, now)


def _claim(session: Session, annotator_id: int, settings: ProjectSettings, now: float) -> AssignmentRow | None:
    """A place in the first normal task that has one. First past the tasks that others hold, then waiting for those."""
    taken = select(func.count()).where(AssignmentRow.task_id == TaskRow.id, _takes_a_place(now)).scalar_subquery()
    free = _open_to(annotator_id, "normal").where(taken < TaskRow.overlap).limit(1)
    for skip_locked in (True, False):
        while True:
            attempt = session.begin_nested()
            task_id = session.scalar(free.with_for_update(of=TaskRow, skip_locked=skip_locked, key_share=True))
            if task_id is None:
                attempt.rollback()
                break
            if places_taken(session, task_id, now) < _lock(session, task_id).overlap:
                assignment = _lease(session, task_id, annotator_id, settings, now)
                attempt.commit()
                return assignment
            attempt.rollback()  # somebody took it between the query and the lock; the next query sees that
    return None


def _only_gold(session: Session, annotator_id: int, settings: ProjectSettings, now: float) -> AssignmentRow | None:
    """In a project without normal tasks (a test of annotators) the gold items are all there is to do."""
    if session.scalar(select(TaskRow.id).where(TaskRow.kind == "normal").limit(1)) is not None:
        return None
    task_id = session.scalar(_open_to(annotator_id, "gold").limit(1))
    return None if task_id is None else _lease(session, task_id, annotator_id, settings, now)


def _open_to(annotator_id: int, kind: str) -> Select[int]:
    """Tasks of a kind that the annotator never had, the highest priority first."""
    had = exists().where(AssignmentRow.task_id == TaskRow.id, AssignmentRow.annotator_id == annotator_id)
    order = (TaskRow.priority.desc(), TaskRow.id)
    return select(TaskRow.id).where(TaskRow.kind == kind, ~had).order_by(*order)


def _repeat(session: Session, annotator_id: int, settings: ProjectSettings, had: int, now: float) -> int | None:
    """A task made from one that the annotator ranked a while ago: tells how far they agree with themselves."""
    own = (
        select(TaskRow)
        .join(AssignmentRow, AssignmentRow.task_id == TaskRow.id)
        .where(AssignmentRow.annotator_id == annotator_id, AssignmentRow.state == "submitted", TaskRow.kind == "normal")
        .order_by(AssignmentRow.finished_at.desc(), AssignmentRow.id.desc())
        .offset(REPEAT_AFTER)
    )
    keys = {f"repeat:{task.id}:{annotator_id}": task for task in session.scalars(own)}
    done = set(session.scalars(select(TaskRow.key).where(TaskRow.key.in_(keys)))) if keys else set()
    choices = [key for key in keys if key not in done]
    if not choices:
        return None
    key = choices[int(shuffle_seed(settings.seed, "repeat", annotator_id, had)[:12], 16) % len(choices)]
    first = keys[key]
    repeat = TaskRow(
        prompt_id=first.prompt_id, kind="repeat", key=key, overlap=1, priority=0.0, of_task=first.id, created_at=now
    )
    session.add(repeat)
    session.flush()
    copy_candidates(session, first.id, repeat.id)
    return repeat.id


def copy_candidates(session: Session, from_task: int, to_task: int) -> None:
    """Lets a task offer the candidates of another, in the same places."""
    places = session.scalars(select(TaskCandidateRow).filter_by(task_id=from_task)).all()
    session.add_all(TaskCandidateRow(task_id=to_task, place=p.place, candidate_id=p.candidate_id) for p in places)
    session.flush()


def assign(
    session: Session, task_id: int, annotator_id: int, seed: str, lease_until: float, now: float
) -> AssignmentRow:
    """A new assignment with its empty annotation of version 0."""
    assignment = AssignmentRow(
        task_id=task_id,
        annotator_id=annotator_id,
        state="leased",
        lease_until=lease_until,
        shuffle_seed=seed,
        opened_at=now,
    )
    session.add(assignment)
    session.flush()
    session.add(AnnotationRow(assignment_id=assignment.id, version=0, updated_at=now))
    session.flush()
    return assignment


def _lease(session: Session, task_id: int, annotator_id: int, settings: ProjectSettings, now: float) -> AssignmentRow:
    seed = shuffle_seed(settings.seed, task_id, annotator_id)
    return assign(session, task_id, annotator_id, seed, lease_end(settings, now), now)

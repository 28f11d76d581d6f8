"""Saving what annotators say: under a version, so that nothing newer is ever overwritten, with every state kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from lit_llm.feedback.store.assignment import OPEN, held, lease_end, lock_annotator, place_is_theirs
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import Item, load_item, messages_of, shown_candidates
from lit_llm.feedback.store.judgement import LONGEST_COMMENT, SCALES, Flag, Judgement, checked
from lit_llm.feedback.store.project_settings import ProjectSettings, settings_in
from lit_llm.feedback.store.refusals import Invalid, LeaseLost, NotYours, Stale
from lit_llm.feedback.store.revisions import write_revision
from lit_llm.feedback.store.storable import unstorable
from lit_llm.feedback.store.tables import (
    AnnotationRow,
    AssignmentRow,
    CandidateFeedbackRow,
    CandidateFlagRow,
    CandidateRow,
    TaskRow,
)

__all__ = [
    "Finished", "Flag", "Invalid", "Judgement", "LeaseLost", "NotYours", "Stale", "recent", "save", "skip", "undo",
]  # fmt: skip

UNDO_LAST = 10


@dataclass(frozen=True)
class Finished:
    """One of the annotator's last items."""

    assignment_id: int
    state: str  # submitted, skipped; leased or draft when it was taken back and is open
    finished_at: float  # seconds since 1970, UTC
    prompt: str  # the last message of the prompt
    version: int


def save(store: Store, annotator_id: int, assignment_id: int, version: int, judgement: Judgement, submit: bool) -> int:
    """Saves a draft or submits, when ``version`` is the one kept; returns the new version.

    A ranking that was submitted can be submitted anew (a correction); undo makes it a draft. Ranks are made dense on
    submitting (1, 2, 2, 3). Submitting needs 2 ranked cards or ``all_bad``. A ranking under the time floor, by the
    page's clock or the store's, is kept and marked too_fast. Raises NotYours, Stale, LeaseLost, Invalid, in this order.
    """
    with store.write() as session:
        assignment, annotation = _writable(store, session, annotator_id, assignment_id, version)
        if assignment.state == "submitted" and not submit:
            raise Invalid("this ranking was submitted; take it back with undo to go on with it as a draft", "submitted")
        settings, now = settings_in(session), store.now()
        shown = shown_candidates(session, assignment.task_id, assignment.shuffle_seed)
        texts = {key: candidate.text for key, candidate in shown.items()}
        kept = checked(judgement, texts, settings, submit)
        write_judgement(session, annotation, kept, shown)
        annotation.too_fast = submit and min(kept.seconds, now - assignment.opened_at) < settings.min_seconds
        annotation.skip_reason = ""
        _finish(assignment, "submitted" if submit else "draft", settings, now)
        return write_revision(session, annotation, "submit" if submit else "draft", now)


def skip(store: Store, annotator_id: int, assignment_id: int, version: int, reason: str) -> int:
    """Leaves the item to others, with a reason (not empty); returns the new version. Raises as ``save``."""
    with store.write() as session:
        assignment, annotation = _writable(store, session, annotator_id, assignment_id, version)
        if assignment.state == "submitted":
            raise Invalid("this ranking was submitted; take it back with undo to skip the item", "submitted")
        problem = unstorable(reason, LONGEST_COMMENT)
        if problem is not None or not reason.strip():
            raise Invalid(f"reason: {problem or 'is empty; say why the item is skipped'}")
        annotation.skip_reason = reason.strip()
        now = store.now()
        _finish(assignment, "skipped", settings_in(session), now)
        return write_revision(session, annotation, "skip", now)


def undo(store: Store, annotator_id: int, assignment_id: int | None = None) -> Item | None:
    """Takes the annotator's last finished item (or the one named) back and opens it with what it said.

    Only the last ten finished items can be taken back; None when none is left. Raises LeaseLost when it was skipped or
    too fast, and others have taken all its places meanwhile; NotYours for a named one that is not among the last ten.
    """
    with store.write() as session:
        lock_annotator(session, annotator_id)
        last = session.scalars(_last_ten(annotator_id)).all()
        chosen = [row.id for row in last if row.state not in OPEN and assignment_id in (None, row.id)]
        if not chosen:
            if assignment_id is not None:
                raise NotYours
            return None
        assignment, task = held(session, annotator_id, chosen[0])
        now = store.now()
        if not place_is_theirs(session, assignment, task, now):
            raise LeaseLost
        annotation = session.get_one(AnnotationRow, assignment.id, populate_existing=True)
        annotation.skip_reason, annotation.too_fast = "", False
        _finish(assignment, "draft", settings_in(session), now)
        write_revision(session, annotation, "undo", now)
        return load_item(session, assignment)


def recent(store: Store, annotator_id: int) -> list[Finished]:
    """The last ten items that the annotator finished, newest first."""
    with store.read() as session:
        found = session.scalars(_last_ten(annotator_id)).all()
        wanted = select(AnnotationRow.assignment_id, AnnotationRow.version)
        kept = session.execute(wanted.where(AnnotationRow.assignment_id.in_([row.id for row in found])))
        versions = {number: version for number, version in kept}  # noqa: C416 - a row is no typed pair
        return [
            Finished(
                row.id,
                row.state,
                row.finished_at or 0.0,
                messages_of(session, row.task_id)[-1].content,
                versions[row.id],
            )
            for row in found
        ]


def write_judgement(
    session: Session, annotation: AnnotationRow, judgement: Judgement, shown: dict[str, CandidateRow]
) -> None:
    """Puts a checked judgement in place of the one kept; the revision is written by ``write_revision``."""
    annotation.ranks = {str(candidate.id): judgement.ranks.get(key) for key, candidate in shown.items()}
    annotation.all_bad, annotation.comment = judgement.all_bad, judgement.comment
    annotation.seconds = judgement.seconds
    for table in (CandidateFeedbackRow, CandidateFlagRow):
        session.execute(delete(table).where(table.assignment_id == annotation.assignment_id))
    for key in sorted(set(judgement.ratings) | set(judgement.notes)):
        scales = {scale: judgement.ratings.get(key, {}).get(scale) for scale in SCALES}
        note = judgement.notes.get(key, "")
        owner = {"assignment_id": annotation.assignment_id, "candidate_id": shown[key].id}
        session.add(CandidateFeedbackRow(**owner, **scales, comment=note))
    for flag in judgement.flags:
        owner = {"assignment_id": annotation.assignment_id, "candidate_id": shown[flag.key].id}
        found = {"kind": flag.kind, "severity": flag.severity, "start": flag.start, "end": flag.end}
        session.add(CandidateFlagRow(**owner, **found))
    session.flush()


def _writable(
    store: Store, session: Session, annotator_id: int, assignment_id: int, version: int
) -> tuple[AssignmentRow, AnnotationRow]:
    """The assignment and its annotation, held; raises NotYours, Stale, LeaseLost."""
    assignment, task = held(session, annotator_id, assignment_id)
    annotation = session.get_one(AnnotationRow, assignment_id, populate_existing=True)
    if annotation.version != version:
        raise Stale(annotation.version)
    if not place_is_theirs(session, assignment, task, store.now()):
        raise LeaseLost
    return assignment, annotation


def _finish(assignment: AssignmentRow, state: str, settings: ProjectSettings, now: float) -> None:
    """The assignment's new state: a draft has a fresh lease, what is finished needs none."""
    assignment.state = state
    if state == "draft":
        assignment.lease_until = lease_end(settings, now)
    else:
        assignment.lease_until = assignment.finished_at = now


def _last_ten(annotator_id: int) -> Any:
    """The last ten finished, those among them that were taken back: ten undos in a row go no further than that."""
    return (
        select(AssignmentRow)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .where(AssignmentRow.annotator_id == annotator_id, TaskRow.kind != "adjudication")
        .where(AssignmentRow.finished_at.is_not(None))
        .order_by(AssignmentRow.finished_at.desc(), AssignmentRow.id.desc())
        .limit(UNDO_LAST)
    )

"""The rankings as rows: what training, exports and the measures of agreement read."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import shown_order
from lit_llm.feedback.store.judgement import SCALES
from lit_llm.feedback.store.pair_order import same_order
from lit_llm.feedback.store.tables import (
    AnnotationRow,
    AnnotatorRow,
    AssignmentRow,
    CandidateFeedbackRow,
    CandidateFlagRow,
    CandidateRow,
    PromptRow,
    TaskCandidateRow,
    TaskRow,
)

ROW_SCHEMA = 1
_TASKS_AT_ONCE = 500


class Details(NamedTuple):
    """What belongs to the tasks of one portion."""

    candidates: dict[int, list[CandidateRow]]  # by task, in their places
    feedback: dict[int, dict[int, CandidateFeedbackRow]]  # by assignment and candidate
    flags: dict[int, list[CandidateFlagRow]]  # by assignment


def rows(
    store: Store,
    kinds: Sequence[str] = ("normal",),
    splits: Sequence[str] | None = None,
    too_fast: bool = False,
    adjudicated: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row for each submitted ranking, in a fixed order (task, annotator), from one state of the database.

    ``kinds``: normal, gold, repeat. ``too_fast``: with those under the time floor. ``adjudicated``: a task that has a
    final ranking yields that in place of its annotators'. Keys of a row: prompt, completions, ranking, annotator (the
    pseudonym), simulated, all_bad, flags, ratings, notes, comment, seconds, too_fast, schema, prompt_hash,
    completion_hashes, models, checkpoints, positions (display place of each completion, from 1; None where imported),
    submitted_at, agreement (with the task's other annotators in the rows, None when alone), split, tags, kind, task,
    adjudicated; gold (known ranks) for gold items; repeat_of (task) for repeats; unranked (answers that were left
    unranked, each with the same said of it). Fewer than two answers ranked and all_bad: every answer is there,
    tied.
    """
    wrong = [kind for kind in kinds if kind not in ("normal", "gold", "repeat")]
    if wrong:
        raise UserError(f"kind {wrong[0]!r}: must be normal, gold or repeat")
    with store.read() as session:
        tasks = select(TaskRow.id).join(PromptRow, PromptRow.id == TaskRow.prompt_id).where(TaskRow.kind.in_(kinds))
        if splits is not None:
            tasks = tasks.where(PromptRow.split.in_(splits))
        wanted = session.scalars(tasks.order_by(TaskRow.id)).all()
        for start in range(0, len(wanted), _TASKS_AT_ONCE):
            portion = wanted[start : start + _TASKS_AT_ONCE]
            yield from _portion(session, portion, too_fast, adjudicated)
            session.expunge_all()


def _portion(session: Session, tasks: Sequence[int], too_fast: bool, adjudicated: bool) -> Iterator[dict[str, Any]]:
    final = _finals(session, tasks) if adjudicated else {}
    found = [record for record in session.execute(_submitted(tasks)) if too_fast or not record.AnnotationRow.too_fast]
    details = _details(session, tasks, [record.AssignmentRow.id for record in [*found, *final.values()]])
    said = {task_id: list(group) for task_id, group in itertools.groupby(found, key=lambda record: record.TaskRow.id)}
    for task_id in tasks:
        if task_id in final:  # whatever became of the rankings that it settles: all may have been too fast
            task = session.get_one(TaskRow, task_id)
            yield _row(final[task_id], task, details) | {"agreement": None, "adjudicated": True}
            continue
        records = said.get(task_id, [])
        made = [_row(record, record.TaskRow, details) for record in records]
        for row, agreement in zip(made, _agreements(records), strict=True):
            row["agreement"] = agreement
        yield from made


def _submitted(tasks: Sequence[int]) -> Any:
    return (
        select(AssignmentRow, AnnotationRow, TaskRow, PromptRow, AnnotatorRow)
        .join(AnnotationRow, AnnotationRow.assignment_id == AssignmentRow.id)
        .join(TaskRow, TaskRow.id == AssignmentRow.task_id)
        .join(PromptRow, PromptRow.id == TaskRow.prompt_id)
        .join(AnnotatorRow, AnnotatorRow.id == AssignmentRow.annotator_id)
        .where(AssignmentRow.state == "submitted", TaskRow.id.in_(tasks))
        .order_by(TaskRow.id, AnnotatorRow.id)
    )


def _finals(session: Session, tasks: Sequence[int]) -> dict[int, Any]:
    """Task -> the newest decision on it."""
    decisions = session.scalars(select(TaskRow.id).where(TaskRow.kind == "adjudication", TaskRow.of_task.in_(tasks)))
    records = session.execute(_submitted(decisions.all())).all()
    newest = sorted(records, key=lambda record: (record.AnnotationRow.updated_at, record.AssignmentRow.id))
    return {record.TaskRow.of_task: record for record in newest}


def _details(session: Session, tasks: Sequence[int], assignments: Sequence[int]) -> Details:
    details = Details(defaultdict(list), defaultdict(dict), defaultdict(list))
    places = (
        select(TaskCandidateRow.task_id, CandidateRow)
        .join(CandidateRow, CandidateRow.id == TaskCandidateRow.candidate_id)
        .where(TaskCandidateRow.task_id.in_(tasks))
        .order_by(TaskCandidateRow.task_id, TaskCandidateRow.place)
    )
    for task_id, candidate in session.execute(places):
        details.candidates[task_id].append(candidate)
    for start in range(0, len(assignments), _TASKS_AT_ONCE):
        some = assignments[start : start + _TASKS_AT_ONCE]
        for row in session.scalars(select(CandidateFeedbackRow).where(CandidateFeedbackRow.assignment_id.in_(some))):
            details.feedback[row.assignment_id][row.candidate_id] = row
        flags = select(CandidateFlagRow).where(CandidateFlagRow.assignment_id.in_(some)).order_by(CandidateFlagRow.id)
        for flag in session.scalars(flags):
            details.flags[flag.assignment_id].append(flag)
    return details


def _row(record: Any, task: TaskRow, details: Details) -> dict[str, Any]:
    """One ranking. ``task`` is the one that was ranked (the record's own may be its adjudication)."""
    assignment, annotation, _, prompt, annotator = record
    candidates = details.candidates[task.id]
    ranks = ranks_of(annotation, candidates)
    kept = [i for i, rank in enumerate(ranks) if rank is not None]
    if len(kept) < 2:  # all bad, without an order
        kept, ranks = list(range(len(candidates))), [1] * len(candidates)
    shown = shown_order(range(len(candidates)), assignment.shuffle_seed)
    answers = [candidates[i] for i in kept]
    feedback = details.feedback[assignment.id]
    row: dict[str, Any] = {
        "prompt": prompt.messages,
        "completions": [answer.text for answer in answers],
        "ranking": [ranks[i] for i in kept],
        "annotator": annotator.pseudonym,
        "simulated": annotator.simulated,
        "all_bad": annotation.all_bad,
        "flags": _flags(details.flags[assignment.id], answers),
        "ratings": [_ratings(feedback.get(answer.id)) for answer in answers],
        "notes": [feedback[answer.id].comment if answer.id in feedback else "" for answer in answers],
        "comment": annotation.comment,
        "seconds": annotation.seconds,
        "too_fast": annotation.too_fast,
        "schema": ROW_SCHEMA,
        "prompt_hash": prompt.hash,
        "completion_hashes": [answer.hash for answer in answers],
        "models": [answer.model for answer in answers],
        "checkpoints": [answer.checkpoint_hash for answer in answers],
        "positions": [shown.index(i) + 1 if assignment.shuffle_seed else None for i in kept],
        "submitted_at": datetime.fromtimestamp(assignment.finished_at, UTC).isoformat(timespec="seconds"),
        "agreement": None,
        "split": prompt.split,
        "tags": prompt.tags,
        "kind": task.kind,
        "task": task.id,
        "adjudicated": False,
        "unranked": [
            _unranked(candidate, feedback.get(candidate.id), details.flags[assignment.id])
            | {"position": shown.index(i) + 1 if assignment.shuffle_seed else None}
            for i, candidate in enumerate(candidates)
            if i not in kept
        ],
    }
    if task.gold_ranks is not None:
        row["gold"] = [task.gold_ranks[i] for i in kept]
    if task.kind == "repeat":
        row["repeat_of"] = task.of_task
    return row


def ranks_of(annotation: AnnotationRow, candidates: Sequence[CandidateRow]) -> list[int | None]:
    """The rank of each candidate in its place."""
    kept: Mapping[str, Any] = annotation.ranks or {}
    return [kept.get(str(candidate.id)) for candidate in candidates]


def _agreements(records: Sequence[Any]) -> list[float | None]:
    """For each ranking the share of pairs that it orders as the others do, over all others of the task."""
    kept = [record.AnnotationRow.ranks or {} for record in records]
    names = sorted(set().union(*kept)) if kept else []
    ranks = [[one.get(name) for name in names] for one in kept]
    found: list[float | None] = []
    for i, own in enumerate(ranks):
        counts = [same_order(own, other) for j, other in enumerate(ranks) if j != i]
        total = sum(count for _, count in counts)
        found.append(sum(alike for alike, _ in counts) / total if total else None)
    return found


def _flags(flags: Sequence[CandidateFlagRow], answers: Sequence[CandidateRow]) -> list[dict[str, Any]]:
    place = {answer.id: i for i, answer in enumerate(answers)}
    return [{"completion": place[flag.candidate_id], **_flag(flag)} for flag in flags if flag.candidate_id in place]


def _flag(flag: CandidateFlagRow) -> dict[str, Any]:
    span = {} if flag.start is None else {"start": flag.start, "end": flag.end}
    return {"kind": flag.kind, "severity": flag.severity, **span}


def _ratings(feedback: CandidateFeedbackRow | None) -> dict[str, int | None]:
    return {scale: getattr(feedback, scale, None) for scale in SCALES}


def _unranked(
    candidate: CandidateRow, feedback: CandidateFeedbackRow | None, flags: Sequence[CandidateFlagRow]
) -> dict[str, Any]:
    return {
        "completion": candidate.text,
        "completion_hash": candidate.hash,
        "model": candidate.model,
        "checkpoint": candidate.checkpoint_hash,
        "flags": [_flag(flag) for flag in flags if flag.candidate_id == candidate.id],
        "ratings": _ratings(feedback),
        "note": feedback.comment if feedback else "",
    }

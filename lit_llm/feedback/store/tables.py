"""The tables of a project's database. One project per database.

Times are seconds since 1970 in UTC (a float means the same in every database). A *task* offers the candidates of a
prompt to annotators; an *assignment* is one annotator's hold on a task; its *annotation* is what is valid now, and each
state that it ever had is an *annotation revision*, which is never changed.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, CheckConstraint, Double, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 1
APPLICATION = "lit-llm ranking project"

TASK_KINDS = ("normal", "gold", "repeat", "adjudication")
STATES = ("leased", "draft", "submitted", "skipped")
ROLES = ("annotator", "adjudicator", "admin")


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})")


class Base(DeclarativeBase):
    type_annotation_map = {float: Double, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 - SQLAlchemy's name


class Schema(Base):
    """One row: which program the database belongs to, and the version of its tables."""

    __tablename__ = "schema_version"
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    application: Mapped[str] = mapped_column(String(80))


class ProjectRow(Base):
    __tablename__ = "project"
    id: Mapped[int] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]  # the fields of ProjectSettings
    created_at: Mapped[float]


class PromptRow(Base):
    __tablename__ = "prompt"
    id: Mapped[int] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    messages: Mapped[list[Any]]  # [{"role", "content"}]
    tags: Mapped[dict[str, Any]]
    split: Mapped[str] = mapped_column(String(40))


class CandidateRow(Base):
    """An answer and where it came from; no page ever shows the latter to annotators."""

    __tablename__ = "candidate"
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"), index=True)
    text: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(Text)
    checkpoint_hash: Mapped[str] = mapped_column(String(128))
    sampling: Mapped[dict[str, Any]]
    seed: Mapped[int | None]
    finish_reason: Mapped[str] = mapped_column(String(40))


class TaskRow(Base):
    __tablename__ = "task"
    __table_args__ = (_one_of("kind", TASK_KINDS), CheckConstraint("overlap >= 1"))
    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"), index=True)
    kind: Mapped[str] = mapped_column(String(20))
    key: Mapped[str] = mapped_column(String(200), unique=True)  # hash of prompt and candidates; of_task for the others
    overlap: Mapped[int]
    priority: Mapped[float]
    gold_ranks: Mapped[list[Any] | None]  # rank of each candidate in its place
    of_task: Mapped[int | None] = mapped_column(ForeignKey("task.id"))  # what is repeated or adjudicated
    created_at: Mapped[float]


Index("task_order", TaskRow.kind, TaskRow.priority.desc(), TaskRow.id)


class TaskCandidateRow(Base):
    """Which candidates a task offers. A repeat offers those of its first task."""

    __tablename__ = "task_candidate"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidate.id"))


class AnnotatorRow(Base):
    __tablename__ = "annotator"
    __table_args__ = (_one_of("role", ROLES),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))
    name_key: Mapped[str] = mapped_column(String(200), unique=True)  # the name as it is compared
    pseudonym: Mapped[str] = mapped_column(String(40), unique=True)
    password_hash: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(20))
    language: Mapped[str] = mapped_column(String(20))
    simulated: Mapped[bool] = mapped_column(default=False)  # a program that plays an annotator
    active: Mapped[bool] = mapped_column(default=True)
    session_version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[float]


class LoginAttemptRow(Base):
    """A log-in that has not succeeded, kept as long as it counts."""

    __tablename__ = "login_attempt"
    id: Mapped[int] = mapped_column(primary_key=True)
    name_key: Mapped[str] = mapped_column(String(200), index=True)
    address: Mapped[str] = mapped_column(String(80), index=True)
    at: Mapped[float]


class AssignmentRow(Base):
    __tablename__ = "assignment"
    __table_args__ = (UniqueConstraint("task_id", "annotator_id"), _one_of("state", STATES))
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    state: Mapped[str] = mapped_column(String(20))
    lease_until: Mapped[float]
    shuffle_seed: Mapped[str] = mapped_column(String(64))
    opened_at: Mapped[float]
    finished_at: Mapped[float | None]  # the last time it was submitted or skipped


class AnnotationRow(Base):
    __tablename__ = "annotation"
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"), primary_key=True)
    version: Mapped[int]  # 0 until something is saved; each write adds 1
    ranks: Mapped[dict[str, Any] | None]  # {candidate id: rank or null}, None before the first save
    all_bad: Mapped[bool] = mapped_column(default=False)
    skip_reason: Mapped[str] = mapped_column(Text, default="")
    comment: Mapped[str] = mapped_column(Text, default="")
    seconds: Mapped[float] = mapped_column(default=0.0)
    too_fast: Mapped[bool] = mapped_column(default=False)
    updated_at: Mapped[float]


class AnnotationRevisionRow(Base):
    """Append-only, which triggers hold (see engine.py)."""

    __tablename__ = "annotation_revision"
    __table_args__ = (UniqueConstraint("assignment_id", "version"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"))
    version: Mapped[int]
    action: Mapped[str] = mapped_column(String(20))  # draft, submit, skip, undo, again, adjudicate
    judgement: Mapped[dict[str, Any]]  # the whole of it, by candidate id
    at: Mapped[float]


class CandidateFeedbackRow(Base):
    __tablename__ = "candidate_feedback"
    __table_args__ = tuple(CheckConstraint(f"{scale} BETWEEN 1 AND 7") for scale in ("helpful", "honest", "harmless"))
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"), primary_key=True)
    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidate.id"), primary_key=True)
    helpful: Mapped[int | None]
    honest: Mapped[int | None]
    harmless: Mapped[int | None]
    comment: Mapped[str] = mapped_column(Text, default="")


class CandidateFlagRow(Base):
    __tablename__ = "candidate_flag"
    __table_args__ = (CheckConstraint("severity BETWEEN 1 AND 3"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[int] = mapped_column(ForeignKey("assignment.id"), index=True)
    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidate.id"))
    kind: Mapped[str] = mapped_column(String(40))
    severity: Mapped[int]
    start: Mapped[int | None]  # Unicode characters from the answer's beginning
    end: Mapped[int | None]


class ExportRow(Base):
    __tablename__ = "export"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    filters: Mapped[dict[str, Any]]
    hash: Mapped[str] = mapped_column(String(64))
    counts: Mapped[dict[str, Any]]
    at: Mapped[float]

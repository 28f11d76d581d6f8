"""Every state that an annotation ever had, each under its version."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lit_llm.feedback.store.judgement import SCALES
from lit_llm.feedback.store.tables import (
    AnnotationRevisionRow,
    AnnotationRow,
    CandidateFeedbackRow,
    CandidateFlagRow,
)


def write_revision(session: Session, annotation: AnnotationRow, action: str, now: float) -> int:
    """Raises the version by 1 and adds to the revisions all that the annotation is now; returns the version."""
    annotation.version += 1
    annotation.updated_at = now
    owner = {"assignment_id": annotation.assignment_id}
    feedback = session.scalars(select(CandidateFeedbackRow).filter_by(**owner)).all()
    flags = session.scalars(select(CandidateFlagRow).filter_by(**owner).order_by(CandidateFlagRow.id)).all()
    whole: dict[str, Any] = {
        "ranks": annotation.ranks,
        "all_bad": annotation.all_bad,
        "comment": annotation.comment,
        "skip_reason": annotation.skip_reason,
        "seconds": annotation.seconds,
        "too_fast": annotation.too_fast,
        "feedback": [_plain(row, "candidate_id", *SCALES, "comment") for row in feedback],
        "flags": [_plain(row, "candidate_id", "kind", "severity", "start", "end") for row in flags],
    }
    session.add(AnnotationRevisionRow(**owner, version=annotation.version, action=action, judgement=whole, at=now))
    session.flush()
    return annotation.version


def _plain(row: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}

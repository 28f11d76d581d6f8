"""The items of a project as an annotator finds them in a list: each prompt once, and what they did with it.

A gold item stands among the others, and a repeat stands in the row of the item that it repeats: the list must not tell
an annotator what is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import aliased

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.tables import AssignmentRow, PromptRow, TaskRow

PAGE = 50

Wanted = Literal["all", "ranked", "unranked"]


@dataclass(frozen=True)
class Listed:
    """One item of the list."""

    number: int  # from 1, in the project's order
    prompt: str  # the last message
    assignment_id: int | None  # the annotator's newest of it; None: not had yet
    state: str | None  # leased, draft, submitted, skipped; None: not had yet
    finished_at: float | None  # seconds since 1970, UTC


@dataclass(frozen=True)
class Listing:
    rows: tuple[Listed, ...]
    page: int  # from 1
    pages: int
    ranked: int  # by this annotator
    total: int  # of the project


def browse(store: Store, annotator_id: int, wanted: Wanted = "all", page: int = 1) -> Listing:
    """A page of the project's items; one behind the last is the last."""
    listed = TaskRow.kind.in_(("normal", "gold"))
    of_it, own, last = aliased(TaskRow), aliased(AssignmentRow), aliased(AssignmentRow)  # of_it: itself or a repeat
    newest = (
        select(func.max(own.id))
        .join(of_it, of_it.id == own.task_id)
        .where(own.annotator_id == annotator_id, of_it.kind != "adjudication")
        .where(or_(of_it.id == TaskRow.id, of_it.of_task == TaskRow.id))
        .correlate(TaskRow)
        .scalar_subquery()
    )
    ranked = exists().where(last.id == newest, last.state == "submitted")
    chosen: dict[str, Any] = {"all": listed, "ranked": listed & ranked, "unranked": listed & ~ranked}
    before = aliased(TaskRow)
    number = (
        select(func.count())
        .select_from(before)
        .where(before.kind.in_(("normal", "gold")), before.id <= TaskRow.id)
        .correlate(TaskRow)
        .scalar_subquery()
    )
    with store.read() as session:
        counts = {name: session.scalar(select(func.count()).where(which)) or 0 for name, which in chosen.items()}
        pages = max(1, -(-counts[wanted] // PAGE))
        page = min(max(page, 1), pages)
        found = (
            select(number, PromptRow.messages, AssignmentRow.id, AssignmentRow.state, AssignmentRow.finished_at)
            .select_from(TaskRow)
            .join(PromptRow, PromptRow.id == TaskRow.prompt_id)
            .outerjoin(AssignmentRow, AssignmentRow.id == newest)
            .where(chosen[wanted])
            .order_by(TaskRow.id)
            .limit(PAGE)
            .offset(PAGE * (page - 1))
        )
        rows = tuple(
            Listed(place, messages[-1]["content"], assignment, state, finished)
            for place, messages, assignment, state, finished in session.execute(found)
        )
    return Listing(rows, page, pages, counts["ranked"], counts["all"])

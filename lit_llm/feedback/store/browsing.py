"""The items of a project as an annotator finds them in a list: each prompt once, and what they did with it.

A gold item stands among the others, and a repeat stands in the row of the item that it repeats: the list must not tell
an annotator what is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

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
    listed = select(TaskRow.id).where(TaskRow.kind.in_(("normal", "gold"))).order_by(TaskRow.id)
    with store.read() as session:
        own = _newest(session, annotator_id)
        places = list(enumerate(session.scalars(listed), 1))
        ranked = [place for place in places if place[1] in own and own[place[1]].state == "submitted"]
        chosen = {"all": places, "ranked": ranked}.get(wanted)
        if chosen is None:
            chosen = sorted(set(places) - set(ranked))
        pages = max(1, -(-len(chosen) // PAGE))
        page = min(max(page, 1), pages)
        shown = chosen[PAGE * (page - 1) : PAGE * page]
        prompts: dict[int, Any] = dict(
            session.execute(
                select(TaskRow.id, PromptRow.messages)
                .join(PromptRow, PromptRow.id == TaskRow.prompt_id)
                .where(TaskRow.id.in_([task_id for _, task_id in shown]))
            ).all()
        )
        rows = tuple(
            Listed(number, prompts[task_id][-1]["content"], *own.get(task_id, (None, None, None)))
            for number, task_id in shown
        )
    return Listing(rows, page, pages, len(ranked), len(places))


class _Own(NamedTuple):
    assignment_id: int
    state: str
    finished_at: float | None


def _newest(session: Session, annotator_id: int) -> dict[int, _Own]:
    """The annotator's newest assignment of each item, of itself or a repeat of it: read once, not sought per item."""
    found = (
        select(
            func.coalesce(TaskRow.of_task, TaskRow.id), AssignmentRow.id, AssignmentRow.state, AssignmentRow.finished_at
        )
        .join(AssignmentRow, AssignmentRow.task_id == TaskRow.id)
        .where(AssignmentRow.annotator_id == annotator_id, TaskRow.kind != "adjudication")
        .order_by(AssignmentRow.id)
    )
    rows = session.execute(found).all()
    return {task_id: _Own(number, state, finished_at) for task_id, number, state, finished_at in rows}

"""Files into a ranking project: prompts with several answers to rank, rankings that were made elsewhere, gold items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from lit_llm.feedback.import_rows import Asked, Said, read_items
from lit_llm.feedback.store.assignment import assign
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import seed_of_order
from lit_llm.feedback.store.judgements import write_judgement
from lit_llm.feedback.store.projects import NewCandidate, NewItem, add_items_in
from lit_llm.feedback.store.revisions import write_revision
from lit_llm.feedback.store.tables import AnnotationRow, AnnotatorRow, AssignmentRow, CandidateRow, TaskCandidateRow

__all__ = ["Imported", "add_rows", "read_items"]


@dataclass(frozen=True)
class Imported:
    items: int
    duplicate_items: int
    rankings: int
    duplicate_rankings: int  # an annotator's second ranking of an item

    def __str__(self) -> str:
        again = f" ({self.duplicate_items} were there)" if self.duplicate_items else ""
        twice = f" ({self.duplicate_rankings} were there)" if self.duplicate_rankings else ""
        return f"{self.items} new items{again}, {self.rankings} rankings{twice}"


def add_rows(store: Store, asked: Sequence[Asked], gold: bool = False) -> Imported:
    """Adds items and their rankings to a project, all or none; rankings keep their annotators' names as pseudonyms.

    Their accounts cannot log in. Where a row says no places of its answers on the page, it counts for no position bias.
    """
    with store.write() as session:
        added = add_items_in(session, [_item(one, gold) for one in asked], store.now())
        if gold:
            return Imported(added.items, added.duplicates, 0, 0)
        given = [(task, one) for task, item in zip(added.task_ids, asked, strict=True) for one in item.rankings]
        new = sum(submit(session, task, one, store.now()) for task, one in given)
    return Imported(added.items, added.duplicates, new, len(given) - new)


def submit(session: Session, task: int, said: Said, now: float) -> bool:
    """Keeps a ranking as submitted; False when its annotator has ranked the item already."""
    who = _annotator(session, said.annotator, said.simulated, now)
    taken = select(AssignmentRow.id).where(AssignmentRow.task_id == task, AssignmentRow.annotator_id == who)
    if session.scalar(taken) is not None:
        return False
    answers = session.scalars(
        select(CandidateRow)
        .join(TaskCandidateRow, TaskCandidateRow.candidate_id == CandidateRow.id)
        .where(TaskCandidateRow.task_id == task)
        .order_by(TaskCandidateRow.place)
    ).all()
    by_text = {answer.text: answer for answer in answers}
    order = sorted(range(len(answers)), key=lambda place: said.positions.get(answers[place].text, 0))
    at = now if said.at is None else said.at
    assignment = assign(session, task, who, seed_of_order(order) if said.positions else "", at, at)
    assignment.state, assignment.finished_at = "submitted", at
    annotation = session.get_one(AnnotationRow, assignment.id)
    write_judgement(session, annotation, said.judgement, {key: by_text[text] for key, text in said.texts.items()})
    write_revision(session, annotation, "import", now)
    return True


def _item(one: Asked, gold: bool) -> NewItem:
    candidates = [NewCandidate(text, of.model, of.checkpoint) for text, of in one.answers.items()]
    item = NewItem(one.messages, candidates, one.tags, one.split)
    if not gold:
        return item
    said = one.rankings[0]
    ranks = {text: rank for key, text in said.texts.items() if (rank := said.judgement.ranks[key]) is not None}
    return replace(item, gold_ranks=[ranks.get(text, max(ranks.values()) + 1) for text in one.answers])


def _annotator(session: Session, name: str, simulated: bool, now: float) -> int:
    """The account of that pseudonym; a person and a program of one name are two: neither passes for the other."""
    known = session.scalar(select(AnnotatorRow).where(AnnotatorRow.pseudonym == name))
    if known is not None and known.simulated != simulated:
        return _annotator(session, f"{name[:30]}-{'simulated' if simulated else 'person'}", simulated, now)
    if known is not None:
        return known.id
    row = AnnotatorRow(
        # Pseudonyms are told apart as they are written (Ann, ann), names of accounts are not.
        name=name, name_key=f"imported {name}", pseudonym=name, password_hash="", role="annotator", language="en",
        simulated=simulated, active=False, created_at=now,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row.id

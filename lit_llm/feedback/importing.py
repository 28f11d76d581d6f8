"""Files into a ranking project: prompts with several answers to rank, rankings that were made elsewhere, gold items."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lit_llm.data.conversations import prompt_of
from lit_llm.data.preference_formats import completion_text, ranking, tags_of
from lit_llm.data.sources import Row, read_rows, resolve
from lit_llm.data.splits import UNDIVIDED, split_name
from lit_llm.errors import UserError
from lit_llm.feedback.flags import FLAG_KINDS
from lit_llm.feedback.store.accounts import name_key
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.projects import NewCandidate, NewItem, add_items
from lit_llm.feedback.store.tables import (
    AnnotationRevisionRow,
    AnnotationRow,
    AnnotatorRow,
    AssignmentRow,
    CandidateFeedbackRow,
    CandidateFlagRow,
    CandidateRow,
    TaskCandidateRow,
)
from lit_llm.records import Message

_READ = (
    "prompt", "completions", "ranking", "ranks", "annotator", "weight", "simulated", "split", "schema", "seconds",
    "comment", "submitted_at", "agreement", "kind", "task", "prompt_hash", "model", "all_bad", "too_fast",
    "adjudicated",
)  # fmt: skip


@dataclass
class Asked:
    """One item of the file: a prompt with its answers, and what annotators said of them."""

    messages: tuple[Message, ...]
    split: str
    tags: dict[str, str]
    answers: dict[str, str]  # text -> the model it is from
    rankings: list[tuple[Mapping[str, Any], str]] = field(default_factory=list)  # row, where


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


def read_items(path: str, gold: bool = False) -> list[Asked]:
    """The items of files: rows of the ranking format, or ``prompt`` and ``completions`` alone.

    Rankings of the same answers to the same prompt are one item. The split is the row's ``split``, or what the file's
    name says, else train. ``gold``: the row's ranks are what is known. Raises UserError with file and line.
    """
    found: dict[tuple[Any, ...], Asked] = {}
    for home, files in resolve(path).items():
        for row in read_rows(files):
            if not isinstance(row, Row):
                raise UserError(str(row))
            one = _asked(row, "train" if home == UNDIVIDED else home)
            if gold and not one.rankings:
                raise UserError(f"{row.where}: no 'ranking'; a gold item has the ranks that are known")
            known = found.setdefault((one.messages, frozenset(one.answers)), one)
            if known is not one:
                known.rankings += one.rankings
    if not found:
        raise UserError(f"rows={path}: no row in it; each has prompt and completions, and perhaps ranking")
    return list(found.values())


def add_rows(store: Store, asked: Sequence[Asked], gold: bool = False) -> Imported:
    """Adds items and their rankings to a project; rankings keep their annotators' names as pseudonyms.

    Their accounts cannot log in. Where the answers stood on the page is not known, and they count for no position bias.
    """
    added = add_items(store, [_item(one, gold) for one in asked])
    if gold:
        return Imported(added.items, added.duplicates, 0, 0)
    given = [(task, *one) for task, item in zip(added.task_ids, asked, strict=True) for one in item.rankings]
    with store.write() as session:
        new = sum(_submit(session, task, row, where, store.now()) for task, row, where in given)
    return Imported(added.items, added.duplicates, new, len(given) - new)


def _asked(row: Row, home: str) -> Asked:
    if isinstance(row.value, str) or not {"prompt", "completions"} <= set(row.value):
        keys = "a text" if isinstance(row.value, str) else f"keys {', '.join(list(row.value)[:8]) or 'none'}"
        raise UserError(f"{row.where}: {keys}; prompt and completions are needed, and ranking where there is one")
    value, where = row.value, row.where
    messages = prompt_of(value["prompt"], "prompt", where)
    listed = value["completions"]
    if not isinstance(listed, list) or len(listed) < 2:
        raise UserError(f"{where}: 'completions' is {str(listed)[:60]}; a list of 2 or more texts is needed")
    texts = [completion_text(one, f"completions[{n}]", where) for n, one in enumerate(listed)]
    left = [str(one["completion"]) for one in value.get("unranked") or ()]
    if len(set(texts + left)) < len(texts + left):
        raise UserError(f"{where}: two completions are the same; each text once")
    models = value.get("models") or [str(value.get("model", ""))] * len(texts)
    answers = dict(zip(texts, models, strict=False)) | dict.fromkeys(left, "")
    split = split_name(value["split"]) if isinstance(value.get("split"), str) else home
    tags = tags_of(value, _READ) | {str(k): str(v) for k, v in (value.get("tags") or {}).items()}
    has_ranks = "ranking" in value or "ranks" in value
    said: list[tuple[Mapping[str, Any], str]] = []
    if has_ranks:
        ranks = ranking(value, where).ranks  # raises for what is no ranking
        said = [({**value, "completions": texts, "ranking": list(ranks)}, where)]
    return Asked(messages, split, tags, answers, said)


def _item(one: Asked, gold: bool) -> NewItem:
    candidates = [NewCandidate(text, str(model)) for text, model in one.answers.items()]
    item = NewItem(one.messages, candidates, one.tags, one.split)
    if not gold:
        return item
    row = one.rankings[0][0]
    ranks = dict(zip(row["completions"], row["ranking"], strict=True))
    return replace(item, gold_ranks=[ranks.get(text, max(ranks.values()) + 1) for text in one.answers])


def _submit(session: Session, task: int, row: Mapping[str, Any], where: str, now: float) -> bool:
    """Keeps a ranking as submitted; False when its annotator has ranked the item already."""
    who = _annotator(session, str(row.get("annotator") or "imported"), row.get("simulated") is True, now)
    taken = select(AssignmentRow.id).where(AssignmentRow.task_id == task, AssignmentRow.annotator_id == who)
    if session.scalar(taken) is not None:
        return False
    answers = session.execute(
        select(CandidateRow.text, CandidateRow.id)
        .join(TaskCandidateRow, TaskCandidateRow.candidate_id == CandidateRow.id)
        .where(TaskCandidateRow.task_id == task)
    )
    ids: dict[str, int] = {record.text: record.id for record in answers}
    said = dict(zip(row["completions"], row["ranking"], strict=True))
    ranks = {str(number): said.get(text) for text, number in ids.items()}
    at = _time(row.get("submitted_at"), now)
    assignment = AssignmentRow(
        task_id=task, annotator_id=who, state="submitted", lease_until=at, shuffle_seed="", opened_at=at, finished_at=at
    )
    session.add(assignment)
    session.flush()
    kept = {
        "all_bad": row.get("all_bad") is True,
        "comment": str(row.get("comment") or ""),
        "seconds": float(row.get("seconds") or 0.0),
    }
    session.add(AnnotationRow(assignment_id=assignment.id, version=1, ranks=ranks, updated_at=at, **kept))
    judgement = {"ranks": ranks, **kept, "imported_from": where}
    session.add(
        AnnotationRevisionRow(assignment_id=assignment.id, version=1, action="submit", judgement=judgement, at=now)
    )
    numbers = [ids[text] for text in row["completions"]]
    session.add_all(_ratings(assignment.id, numbers, row))
    session.add_all(_flags(assignment.id, numbers, row, where))
    return True


def _annotator(session: Session, name: str, simulated: bool, now: float) -> int:
    """The account of that pseudonym; a person and a program of one name are two: neither passes for the other."""
    known = session.scalar(select(AnnotatorRow).where(AnnotatorRow.pseudonym == name))
    if known is not None and known.simulated != simulated:
        return _annotator(session, f"{name}-{'simulated' if simulated else 'person'}", simulated, now)
    if known is not None:
        return known.id
    if len(name) > 40:
        raise UserError(f"annotator {name[:50]!r}: longer than 40 characters; give a shorter pseudonym")
    row = AnnotatorRow(
        name=name, name_key=f"imported {name_key(name)}"[:200], pseudonym=name, password_hash="", role="annotator",
        language="en", simulated=simulated, active=False, created_at=now,
    )  # fmt: skip
    session.add(row)
    session.flush()
    return row.id


def _ratings(assignment: int, numbers: Sequence[int], row: Mapping[str, Any]) -> Iterable[CandidateFeedbackRow]:
    given, notes = row.get("ratings") or [], row.get("notes") or []
    for place, number in enumerate(numbers):
        scales = dict(given[place]) if place < len(given) and given[place] else {}
        note = notes[place] if place < len(notes) else ""
        kept = {scale: scales.get(scale) for scale in ("helpful", "honest", "harmless")}
        if note or any(kept.values()):
            yield CandidateFeedbackRow(assignment_id=assignment, candidate_id=number, comment=note, **kept)


def _flags(assignment: int, numbers: Sequence[int], row: Mapping[str, Any], where: str) -> Iterable[CandidateFlagRow]:
    for flag in row.get("flags") or ():
        place, kind, severity = flag.get("completion"), flag.get("kind"), flag.get("severity", 2)
        known = kind in FLAG_KINDS and severity in (1, 2, 3)
        if not known or not isinstance(place, int) or not 0 <= place < len(numbers):
            raise UserError(f"{where}: a flag is {json.dumps(flag)[:80]}; completion, a known kind and severity 1 to 3")
        yield CandidateFlagRow(
            assignment_id=assignment, candidate_id=numbers[place], kind=kind, severity=severity,
            start=flag.get("start"), end=flag.get("end"),
        )  # fmt: skip


def _time(value: Any, now: float) -> float:
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else now
    except ValueError:
        return now

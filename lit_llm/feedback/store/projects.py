"""A project and its items: prompts with the candidate answers to rank."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.project_settings import ProjectSettings, settings_in
from lit_llm.feedback.store.storable import unstorable
from lit_llm.feedback.store.tables import CandidateRow, ProjectRow, PromptRow, TaskCandidateRow, TaskRow
from lit_llm.records import Message

__all__ = [
    "Added", "NewCandidate", "NewItem", "ProjectSettings", "add_items", "add_items_in", "change_settings",
    "create_project", "set_priorities", "settings",
]  # fmt: skip

MOST_CANDIDATES = 26  # cards are named A to Z


@dataclass(frozen=True)
class NewCandidate:
    text: str
    model: str = ""
    checkpoint_hash: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    finish_reason: str = ""


@dataclass(frozen=True)
class NewItem:
    messages: Sequence[Message]  # ends with the user's turn
    candidates: Sequence[NewCandidate]
    tags: Mapping[str, str] = field(default_factory=dict)
    split: str = "train"
    priority: float = 0.0  # higher comes first
    gold_ranks: Sequence[int] | None = None  # the known ranking: makes it a gold item


@dataclass(frozen=True)
class Added:
    items: int  # new ones
    duplicates: int  # the same prompt with the same answers was there
    task_ids: tuple[int, ...]  # one per item given, in order: the new task's, or that of its duplicate


def create_project(store: Store, settings: ProjectSettings) -> None:
    """Writes the settings of a new project. Raises UserError when the database holds one already."""
    with store.write() as session:
        if session.scalar(select(ProjectRow.id)) is not None:
            raise UserError(f"{store.place}: holds a project already; go on with it, or choose another file")
        session.add(ProjectRow(id=1, settings=dataclasses.asdict(settings), created_at=store.now()))


def settings(store: Store) -> ProjectSettings:
    """Raises UserError when the database holds no project yet."""
    with store.read() as session:
        return settings_in(session)


def change_settings(store: Store, **changes: Any) -> ProjectSettings:
    """Changes some settings of the project; a new overlap is that of the items that are there, too."""
    with store.write() as session:
        project = session.scalar(select(ProjectRow).with_for_update())
        names = {f.name for f in dataclasses.fields(ProjectSettings)}
        for name in changes:
            if name not in names:
                raise UserError(f"{name}: is no setting; there are {', '.join(sorted(names))}")
        changed = dataclasses.replace(settings_in(session), **changes)
        assert project is not None  # settings_in would have raised
        project.settings = dataclasses.asdict(changed)
        if "overlap" in changes:
            session.execute(update(TaskRow).where(TaskRow.kind == "normal").values(overlap=changed.overlap))
        return changed


def add_items(store: Store, items: Iterable[NewItem]) -> Added:
    """Adds all items or, when one of them cannot be, none (UserError naming the item's number, from 1).

    A prompt that is there already keeps its split, whatever the new item says, so that no prompt is in two splits.
    """
    with store.write() as session:
        return add_items_in(session, items, store.now())


def add_items_in(session: Session, items: Iterable[NewItem], now: float) -> Added:
    """``add_items`` as a part of a transaction."""
    given, new, ids = list(items), 0, []
    session.execute(select(ProjectRow.id).with_for_update())  # two imports at once: the second sees the first's
    project = settings_in(session)
    for number, item in enumerate(given, 1):
        problem = _problem(item, project)
        if problem is not None:
            raise UserError(f"item {number}: {problem}")
        key = _item_hash(item)
        known = session.scalar(select(TaskRow.id).where(TaskRow.key == key))
        new += known is None
        ids.append(_add(session, item, key, project.overlap, now) if known is None else known)
    return Added(new, len(given) - new, tuple(ids))


def set_priorities(store: Store, priorities: Mapping[int, float]) -> None:
    """Which tasks come first: task id -> priority, the highest first. UserError for an unknown task or no number."""
    bad = next((f"{task}={value}" for task, value in priorities.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise UserError(f"priority of task {bad}: must be a finite number")
    with store.write() as session:
        known = set(session.scalars(select(TaskRow.id)))
        unknown = sorted(set(priorities) - known)
        if unknown:
            raise UserError(f"task {unknown[0]}: there is no such task in {store.place}")
        changes = [{"id": task, "priority": float(priorities[task])} for task in sorted(priorities)]
        if changes:
            session.execute(update(TaskRow), changes)


def prompt_hash(messages: Sequence[Message]) -> str:
    """SHA-256 of the messages as canonical JSON: what exports name a prompt by."""
    plain = [[message.role, message.content] for message in messages]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def completion_hash(text: str) -> str:
    """SHA-256 of the text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _item_hash(item: NewItem) -> str:
    """Of the prompt and its answers, whatever their order."""
    parts = [prompt_hash(item.messages), *sorted(completion_hash(candidate.text) for candidate in item.candidates)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _problem(item: NewItem, project: ProjectSettings) -> str | None:
    """What is wrong with the item, else None."""
    texts = [candidate.text for candidate in item.candidates]
    most = 2 if project.kind == "comparison" else MOST_CANDIDATES
    if not item.messages or item.messages[-1].role != "user":
        return "the prompt must end with a message of the user"
    if not all(message.plain for message in item.messages):
        return "the prompt has tools, tool calls or reasoning, and annotators are shown text alone"
    for what, text in [*(("a message", m.content) for m in item.messages), *(("a candidate", t) for t in texts)]:
        problem = unstorable(text)
        if problem is not None or not text.strip():
            return f"{what} {problem or 'is empty'}"
    if not 2 <= len(texts) <= most:
        return f"{len(texts)} candidates; there must be {'2' if most == 2 else f'2 to {most}'}"
    if len(set(texts)) < len(texts):
        return f"the candidate {max(texts, key=texts.count)[:60]!r} is given twice; each must differ"
    if not math.isfinite(item.priority):
        return f"priority {item.priority}; must be a finite number"
    gold = item.gold_ranks
    if gold is not None and (len(gold) != len(texts) or len(set(gold)) < 2 or not set(gold) <= set(range(1, 27))):
        return f"gold ranks {list(gold)}; must be {len(texts)} whole numbers from 1, not all equal"
    return None


def _add(session: Session, item: NewItem, key: str, overlap: int, now: float) -> int:
    known = session.scalar(select(PromptRow.id).where(PromptRow.hash == prompt_hash(item.messages)))
    if known is None:
        messages = [{"role": message.role, "content": message.content} for message in item.messages]
        digest = prompt_hash(item.messages)
        prompt = PromptRow(hash=digest, messages=messages, tags=dict(item.tags), split=item.split)
        session.add(prompt)
        session.flush()
        known = prompt.id
    gold = None if item.gold_ranks is None else list(item.gold_ranks)
    task = TaskRow(
        prompt_id=known,
        kind="normal" if gold is None else "gold",
        key=key,
        overlap=overlap,
        priority=float(item.priority),
        gold_ranks=gold,
        created_at=now,
    )
    candidates = [_candidate_row(known, candidate) for candidate in item.candidates]
    session.add_all([task, *candidates])
    session.flush()
    for place, candidate in enumerate(candidates):
        session.add(TaskCandidateRow(task_id=task.id, place=place, candidate_id=candidate.id))
    return task.id


def _candidate_row(prompt_id: int, candidate: NewCandidate) -> CandidateRow:
    return CandidateRow(
        prompt_id=prompt_id,
        text=candidate.text,
        hash=completion_hash(candidate.text),
        model=candidate.model,
        checkpoint_hash=candidate.checkpoint_hash,
        sampling=dict(candidate.sampling),
        seed=candidate.seed,
        finish_reason=candidate.finish_reason,
    )

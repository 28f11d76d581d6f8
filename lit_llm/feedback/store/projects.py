"""A project's settings and its items: prompts with the candidate answers to rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.flag_kinds import FLAG_KINDS
from lit_llm.records import Message


@dataclass(frozen=True)
class ProjectSettings:
    title: str = "Ranking"
    instructions: str = ""  # what annotators are told, plain text
    kind: Literal["ranking", "comparison"] = "ranking"  # comparison: exactly two candidates an item
    overlap: int = 1  # annotators per item
    repeat_share: float = 0.05  # of an annotator's items, those that they have ranked before
    gold_share: float = 0.05  # of an annotator's items, those whose ranking is known
    min_seconds: float = 5.0  # a ranking given faster is marked too_fast
    lease_minutes: float = 30.0  # how long an item is held for an annotator who is silent
    flag_kinds: tuple[str, ...] = tuple(FLAG_KINDS)
    allow_ties: bool = True
    target_rankings: int | None = None  # when the project has enough; None: every item's overlap
    seed: int = 0  # of the orders shown, and of where gold items and repeats come


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
    """Writes the settings of a new project. Raises UserError for a value that cannot be, or a second project."""
    raise NotImplementedError


def settings(store: Store) -> ProjectSettings:
    """Raises UserError when the database holds no project yet."""
    raise NotImplementedError


def change_settings(store: Store, **changes: Any) -> ProjectSettings:
    """Changes some settings of the project, overlap for the items that are there, too."""
    raise NotImplementedError


def add_items(store: Store, items: Iterable[NewItem]) -> Added:
    """Adds all items or, when one of them cannot be, none (UserError naming the item's number, from 1)."""
    raise NotImplementedError


def set_priorities(store: Store, priorities: Mapping[int, float]) -> None:
    """Which tasks come first: task id -> priority, the highest first."""
    raise NotImplementedError

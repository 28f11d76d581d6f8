"""Saving what annotators say: under a version, so that nothing newer is ever overwritten, with every state kept."""

from __future__ import annotations

from dataclasses import dataclass

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import Item
from lit_llm.feedback.store.judgement import Flag, Judgement
from lit_llm.feedback.store.refusals import Invalid, LeaseLost, NotYours, Stale

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
    raise NotImplementedError


def skip(store: Store, annotator_id: int, assignment_id: int, version: int, reason: str) -> int:
    """Leaves the item to others, with a reason (not empty); returns the new version. Raises as ``save``."""
    raise NotImplementedError


def undo(store: Store, annotator_id: int, assignment_id: int | None = None) -> Item | None:
    """Takes the annotator's last finished item (or the one named) back and opens it with what it said.

    Only the last ten finished items can be taken back; None when none is left. Raises LeaseLost when it was skipped
    and others have taken all its places meanwhile; NotYours for a named one that is not among the last ten.
    """
    raise NotImplementedError


def recent(store: Store, annotator_id: int) -> list[Finished]:
    """The last ten items that the annotator finished, newest first."""
    raise NotImplementedError

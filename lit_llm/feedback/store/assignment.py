"""Who gets which item: leases, overlap, gold items and repeats."""

from __future__ import annotations

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.items import Card, Item

__all__ = ["Card", "Item", "next_item", "open_item", "release"]


def next_item(store: Store, annotator_id: int) -> Item | None:
    """The annotator's item that is still open, else a new one under a lease; None when there is nothing left."""
    raise NotImplementedError


def open_item(store: Store, annotator_id: int, assignment_id: int) -> Item:
    """An item of the annotator's, open or finished; an open one's lease is renewed. Raises NotYours, LeaseLost."""
    raise NotImplementedError


def release(store: Store, annotator_id: int, assignment_id: int) -> None:
    """Gives an open item back before its lease ends; a draft stays. Raises NotYours."""
    raise NotImplementedError

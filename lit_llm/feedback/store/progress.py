"""How far a project is."""

from __future__ import annotations

from dataclasses import dataclass

from lit_llm.feedback.store.engine import Store


@dataclass(frozen=True)
class AnnotatorProgress:
    annotator_id: int
    name: str
    pseudonym: str
    submitted: int  # rankings of normal items
    skipped: int
    too_fast: int  # of all submitted
    open: int  # leased or draft
    median_seconds: float | None
    gold: int  # gold items answered
    gold_accuracy: float | None  # share of the strict pairs of gold items that were ordered as known
    repeats: int
    last_at: float | None


@dataclass(frozen=True)
class Progress:
    tasks: int  # normal items
    complete: int  # those with all their rankings
    rankings: int  # submitted for normal items, too fast ones left out
    wanted: int  # the target, else the sum of the items' overlaps
    too_fast: int
    skipped: int
    open: int
    adjudicated: int
    annotators: tuple[AnnotatorProgress, ...]

    @property
    def enough(self) -> bool:
        return self.rankings >= self.wanted > 0


def progress(store: Store) -> Progress:
    """Overall and for each annotator."""
    raise NotImplementedError

"""What an annotator says about one item: the record, and what it must fulfil."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SCALES = ("helpful", "honest", "harmless")


@dataclass(frozen=True)
class Flag:
    """Something wrong with a card's answer, or with a stretch of it."""

    key: str  # the card's
    kind: str  # one of the project's flag kinds
    severity: int = 2  # 1 slight, 2 clear, 3 severe
    start: int | None = None  # the stretch, in Unicode characters (code points) of the answer's text
    end: int | None = None  # one past its last character


@dataclass(frozen=True)
class Judgement:
    """Ranks and feedback by card key. Rank 1 is best, equal ranks are ties, None (or no entry) is not ranked."""

    ranks: Mapping[str, int | None] = field(default_factory=dict)
    all_bad: bool = False
    comment: str = ""
    ratings: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)  # key -> scale -> 1 to 7
    notes: Mapping[str, str] = field(default_factory=dict)  # key -> a comment on that answer
    flags: tuple[Flag, ...] = ()
    seconds: float = 0.0  # how long the annotator worked on it, as the page measured it

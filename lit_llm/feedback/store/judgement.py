"""What an annotator says about one item: the record, and what it must fulfil."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lit_llm.feedback.store.flag_kinds import SEVERITIES
from lit_llm.feedback.store.project_settings import ProjectSettings
from lit_llm.feedback.store.refusals import Invalid
from lit_llm.feedback.store.storable import unstorable

SCALES = ("helpful", "honest", "harmless")
LONGEST_COMMENT = 10_000
LONGEST_SECONDS = 86_400.0
MOST_FLAGS = 200


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


def checked(judgement: Judgement, texts: Mapping[str, str], settings: ProjectSettings, submit: bool) -> Judgement:
    """The judgement with every card in ``ranks``, and the ranks dense (1, 2, 2, 3) when it is submitted.

    ``texts``: card key -> the answer. Raises Invalid, naming the field, for what cannot be.
    """
    for what, keys in (("ranks", judgement.ranks), ("ratings", judgement.ratings), ("notes", judgement.notes)):
        for key in keys:
            _need(key in texts, f"{what}: there is no card {key!r}; the cards are {', '.join(texts)}")
    ranks = {key: judgement.ranks.get(key) for key in texts}
    for key, rank in ranks.items():
        fits = rank is None or (_whole(rank) and 1 <= rank <= len(texts))
        _need(fits, f"rank of card {key}: {rank!r}; must be a whole number from 1 to {len(texts)}, or nothing")
    _check_texts(judgement)
    _check_ratings(judgement)
    _check_flags(judgement, texts, settings)
    seconds = judgement.seconds
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
    _need(number and seconds >= 0, f"seconds: {seconds!r}; must be 0 or more")
    _need(isinstance(judgement.all_bad, bool), f"all_bad: {judgement.all_bad!r}; must be true or false")
    if submit:
        _check_complete(ranks, judgement.all_bad, settings)
        ranks = dense(ranks)
    return replace(judgement, ranks=ranks, seconds=min(float(seconds), LONGEST_SECONDS), flags=tuple(judgement.flags))


def dense(ranks: Mapping[str, int | None]) -> dict[str, int | None]:
    """The same order in ranks without gaps: {A: 3, B: 1, C: 3} is {A: 2, B: 1, C: 2}."""
    order = sorted({rank for rank in ranks.values() if rank is not None})
    return {key: None if rank is None else order.index(rank) + 1 for key, rank in ranks.items()}


def _check_complete(ranks: Mapping[str, int | None], all_bad: bool, settings: ProjectSettings) -> None:
    given = [rank for rank in ranks.values() if rank is not None]
    _need(
        len(given) >= 2 or all_bad,
        f"{len(given)} cards are ranked; rank at least 2, or say that all are bad",
        "too_few",
    )
    tied = len(set(given)) < len(given)
    _need(settings.allow_ties or not tied or all_bad, "two cards have the same rank; ties are not allowed here", "ties")


def _check_texts(judgement: Judgement) -> None:
    for what, text in [("comment", judgement.comment), *((f"note on card {k}", v) for k, v in judgement.notes.items())]:
        problem = unstorable(text, LONGEST_COMMENT)
        _need(problem is None, f"{what}: {problem}", "text")


def _check_ratings(judgement: Judgement) -> None:
    for key, scales in judgement.ratings.items():
        for scale, value in scales.items():
            _need(scale in SCALES, f"ratings of card {key}: {scale!r}; the scales are {', '.join(SCALES)}")
            fits = value is None or (_whole(value) and 1 <= value <= 7)
            _need(fits, f"{scale} of card {key}: {value!r}; must be a whole number from 1 to 7")


def _check_flags(judgement: Judgement, texts: Mapping[str, str], settings: ProjectSettings) -> None:
    _need(len(judgement.flags) <= MOST_FLAGS, f"{len(judgement.flags)} flags; at most {MOST_FLAGS} are kept", "flags")
    for flag in judgement.flags:
        _need(flag.key in texts, f"flags: there is no card {flag.key!r}; the cards are {', '.join(texts)}")
        known = flag.kind in settings.flag_kinds
        _need(known, f"flag {flag.kind!r}: must be one of {', '.join(settings.flag_kinds)}")
        severities = ", ".join(f"{number} ({word})" for number, word in SEVERITIES.items())
        fits = _whole(flag.severity) and flag.severity in SEVERITIES
        _need(fits, f"severity of flag {flag.kind}: {flag.severity!r}; must be {severities}")
        if flag.start is None and flag.end is None:
            continue
        length = len(texts[flag.key])
        span = _whole(flag.start) and _whole(flag.end) and 0 <= flag.start < flag.end <= length  # type: ignore[operator]
        _need(span, f"flag {flag.kind}: {flag.start}-{flag.end} is no stretch of the {length} characters of the answer")


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _need(holds: bool, message: str, reason: str = "") -> None:
    if not holds:
        raise Invalid(message, reason)

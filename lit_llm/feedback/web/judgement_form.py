"""The same judgement from a plain form, so that everything works without script.

Fields: ``rank.A``, ``helpful.A`` ..., ``note.A``, ``all_bad``, ``comment``, ``seconds`` or ``opened``, one ``flag``
per flag that is kept (as JSON), and per card the flag that is being added: ``flag_kind.A``, ``flag_severity.A``, and
its passage as ``flag_quote.A`` (searched in the answer) or ``flag_span.A`` ("start-end", from a selection).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lit_llm.feedback.judgement_json import read_flag
from lit_llm.feedback.store.items import Card
from lit_llm.feedback.store.judgement import SCALES, Flag, Judgement
from lit_llm.feedback.store.refusals import Invalid
from lit_llm.feedback.web.access import Fields

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in the form that cannot be taken: a key of the catalogue and the place of the card it is about."""

    reason: str
    card: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What a form said: the judgement as far as it can be read, the flags not added yet, and what is wrong."""

    judgement: Judgement
    pending: dict[str, dict[str, str]] = field(default_factory=dict)  # key -> kind, severity, quote
    problems: tuple[Problem, ...] = ()


def read(fields: Fields, cards: Sequence[Card], seconds_before: float = 0.0) -> Entry:
    """Reads the fields of an item's form. ``seconds_before``: what earlier drafts had taken, where no script counts."""
    judgement = Judgement(
        ranks={card.key: _number(fields.one(f"rank.{card.key}")) for card in cards},
        all_bad=fields.one("all_bad") == "1",
        comment=fields.one("comment"),
        ratings={card.key: {s: _number(fields.one(f"{s}.{card.key}")) for s in SCALES} for card in cards},
        notes={card.key: note for card in cards if (note := fields.one(f"note.{card.key}")).strip()},
        flags=_kept(fields),
        seconds=_seconds(fields, seconds_before),
    )
    pending, problems = {}, []
    for place, card in enumerate(cards):
        wanted = {name: fields.one(f"flag_{name}.{card.key}") for name in ("kind", "severity", "quote", "span")}
        asked = fields.one("action") == f"flag:{card.key}"
        if not (asked or wanted["kind"] or wanted["quote"].strip()):
            continue
        found = _new_flag(card, wanted)
        if isinstance(found, Flag):
            judgement = replace(judgement, flags=_added(judgement.flags, found))
        else:
            pending[card.key] = wanted
            problems.append(Problem(found, place))
    return Entry(judgement, pending, tuple(problems))


def _new_flag(card: Card, wanted: dict[str, str]) -> Flag | str:
    """The flag that the card's fields describe, or the key of the sentence that says what is missing."""
    if not wanted["kind"]:
        return "flags.no_kind"
    severity = _number(wanted["severity"]) or 2
    quote, span = wanted["quote"].strip(), _span(wanted["span"], len(card.text))
    if span:
        return Flag(card.key, wanted["kind"], severity, *span)
    if not quote:
        return Flag(card.key, wanted["kind"], severity)
    start = card.text.find(quote)
    if start < 0:
        return "flags.not_found"
    return Flag(card.key, wanted["kind"], severity, start, start + len(quote))


def _added(flags: tuple[Flag, ...], new: Flag) -> tuple[Flag, ...]:
    return flags if new in flags else (*flags, new)


def _kept(fields: Fields) -> tuple[Flag, ...]:
    try:
        return tuple(read_flag(json.loads(value)) for value in fields.all("flag"))
    except (ValueError, RecursionError):
        raise Invalid("flag: must be the JSON of a flag") from None


def _span(text: str, length: int) -> tuple[int, int] | None:
    start, _, end = text.partition("-")
    if not (start.isdecimal() and end.isdecimal()) or max(len(start), len(end)) > 9:
        return None
    return (int(start), int(end)) if int(start) < int(end) <= length else None


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) < 9 else None


def _seconds(fields: Fields, before: float) -> float:
    """The script's count of active seconds, else the time since the page was made, added to earlier drafts'."""
    counted, opened = _real(fields.one("seconds")), _real(fields.one("opened"))
    if counted is not None:
        return min(max(counted, 0.0), 1e6)
    return before + (min(max(time.time() - opened, 0.0), DAY) if opened is not None else 0.0)


def _real(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None

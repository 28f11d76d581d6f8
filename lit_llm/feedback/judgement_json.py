"""A judgement as JSON and back: what the script and any other client of the HTTP interface send.

    {"submit": true, "ranks": {"A": 1, "B": null}, "all_bad": false, "comment": "", "seconds": 41.5,
     "ratings": {"A": {"helpful": 6, "honest": null, "harmless": 7}}, "notes": {"A": "..."},
     "flags": [{"key": "A", "kind": "privacy", "severity": 2, "start": 4, "end": 19}]}

Every key but ``ranks`` may be left out. What the values must fulfil beyond their types is the store's to say.
"""

from __future__ import annotations

from typing import Any

from lit_llm.feedback.store.judgement import LONGEST_COMMENT, MOST_FLAGS, SCALES, Flag, Judgement
from lit_llm.feedback.store.refusals import Invalid

KEYS = {"submit", "ranks", "all_bad", "comment", "ratings", "notes", "flags", "seconds"}


def read(content: dict[str, Any]) -> Judgement:
    """Raises Invalid, naming the field and its value, where a type is wrong or a key unknown."""
    unknown = sorted(set(content) - KEYS)
    if unknown:
        raise Invalid(f"{unknown[0]}: unknown; the keys are {', '.join(sorted(KEYS))}")
    ratings = _object(content, "ratings")
    return Judgement(
        ranks={key: _whole(value, f"ranks.{key}", True) for key, value in _object(content, "ranks").items()},
        all_bad=_boolean(content, "all_bad"),
        comment=_text(content.get("comment", ""), "comment"),
        ratings={key: _rating(key, ratings) for key in ratings},
        notes={key: _text(value, f"notes.{key}") for key, value in _object(content, "notes").items()},
        flags=_flags(content.get("flags", [])),
        seconds=_seconds(content.get("seconds", 0.0)),
    )


def submits(content: dict[str, Any]) -> bool:
    return _boolean(content, "submit")


def read_flag(content: Any, where: str = "flags") -> Flag:
    """One flag. Raises Invalid."""
    if not isinstance(content, dict) or set(content) - {"key", "kind", "severity", "start", "end"}:
        raise Invalid(f"{where}: {content!r:.80}; a flag has key, kind, severity, start and end")
    return Flag(
        key=_text(content.get("key"), f"{where}.key"),
        kind=_text(content.get("kind"), f"{where}.kind"),
        severity=_whole(content.get("severity", 2), f"{where}.severity") or 0,
        start=_whole(content.get("start"), f"{where}.start", True),
        end=_whole(content.get("end"), f"{where}.end", True),
    )


def write(judgement: Judgement) -> dict[str, Any]:
    """What ``read`` reads, without ``submit``."""
    return {
        "ranks": dict(judgement.ranks),
        "all_bad": judgement.all_bad,
        "comment": judgement.comment,
        "ratings": {key: dict(scales) for key, scales in judgement.ratings.items()},
        "notes": dict(judgement.notes),
        "flags": [write_flag(flag) for flag in judgement.flags],
        "seconds": judgement.seconds,
    }


def write_flag(flag: Flag) -> dict[str, Any]:
    return {
        "key": flag.key, "kind": flag.kind, "severity": flag.severity, "start": flag.start, "end": flag.end,
    }  # fmt: skip


def _rating(key: str, ratings: dict[str, Any]) -> dict[str, int | None]:
    scales = _object(ratings, key)
    unknown = sorted(set(scales) - set(SCALES))
    if unknown:
        raise Invalid(f"ratings.{key}.{unknown[0]}: unknown; the scales are {', '.join(SCALES)}")
    return {name: _whole(value, f"ratings.{key}.{name}", True) for name, value in scales.items()}


def _flags(content: Any) -> tuple[Flag, ...]:
    if not isinstance(content, list) or len(content) > MOST_FLAGS:
        raise Invalid(f"flags: must be a list of at most {MOST_FLAGS}")
    return tuple(read_flag(flag, f"flags.{n}") for n, flag in enumerate(content))


def _object(content: dict[str, Any], name: str) -> dict[str, Any]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise Invalid(f"{name}: {value!r:.80}; must be an object")
    return value


def _boolean(content: dict[str, Any], name: str) -> bool:
    value = content.get(name, False)
    if not isinstance(value, bool):
        raise Invalid(f"{name}: {value!r:.80}; must be true or false")
    return value


def _whole(value: Any, where: str, may_be_null: bool = False) -> int | None:
    if value is None and may_be_null:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 10**9:
        raise Invalid(f"{where}: {value!r:.80}; must be a whole number{' or null' if may_be_null else ''}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{where}: {value!r:.80}; must be text")
    if len(value) > LONGEST_COMMENT:
        raise Invalid(f"{where}: {len(value)} characters; at most {LONGEST_COMMENT}")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e7:
        raise Invalid(f"seconds: {value!r:.80}; must be a number from 0")
    return float(value)

"""Numbers as people and models write them in an answer: commas, currencies, units, fractions, percent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

LONGEST = 60  # characters of a number: longer ones are no answers, and exact arithmetic on them takes long

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""(?P<sign>(?<![\w)\]}}.])[-−–+])?          # a minus, not a dash or a subtraction: 5-3 ends with 3
    (?<![\w.])(?P<before>\\?[$€£¥]\s?[-−]?)?          # $5, -$5, $-5; a number that is part of a name is none
    (?:\\[dt]?frac\{{\s*(?P<over>-?\d+)\s*\}}\{{\s*(?P<under>\d+)\s*\}}
      |(?P<whole>\d+)\s+(?P<top>\d+)/(?P<bottom>\d+)(?![\d/])      # 1 3/4
      |(?P<upper>{_PLAIN})\s?/\s?(?P<lower>{_PLAIN})(?![\d/])      # 3/4
      |(?P<plain>{_PLAIN})(?:[eE](?P<power>[-+]?\d{{1,3}})(?!\w|\.\d))?)
    (?P<percent>\s?\\?%)?""",
    re.VERBOSE,
)


class Number(NamedTuple):
    """A value as written, before any percent sign, exactly."""

    value: Fraction
    percent: bool

    def equals(self, other: Number, tolerance: float = 0.0) -> bool:
        """Whether they say the same, up to ``tolerance`` (absolute).

        A percent sign is a unit and may be left out (50% is 50), or be counted in (50% is 1/2).
        """
        pairs = [(self.value, other.value)]
        if self.percent != other.percent:
            pairs.append(tuple(n.value / 100 if n.percent else n.value for n in (self, other)))  # type: ignore[arg-type]
        return any(abs(one - two) <= tolerance for one, two in pairs)


def numbers_in(text: str) -> Iterator[Number]:
    """Every number of a text, in order; one that is too long or divides by 0 is left out."""
    for match in _NUMBER.finditer(text):
        value = None if len(match[0]) > LONGEST else _value(match)
        if value is not None:
            minus = any(mark in (match["sign"] or "") + (match["before"] or "") for mark in "-−–")
            yield Number(-value if minus else value, bool(match["percent"]))


def first_number(text: str) -> Number | None:
    """The first number of a text."""
    return next(numbers_in(text), None)


def last_number(text: str) -> Number | None:
    """The last number of a text."""
    found = None
    for found in numbers_in(text):  # noqa: B007
        pass
    return found


def only_number(text: str) -> Number | None:
    """The number that a text is, with a currency or a unit: ``$1,234.50``, ``72 clips``. None for other texts."""
    found = list(numbers_in(text))
    return found[0] if len(found) == 1 else None


def _value(match: re.Match[str]) -> Fraction | None:
    try:
        if match["over"]:
            return Fraction(int(match["over"]), int(match["under"]))
        if match["whole"]:
            return int(match["whole"]) + Fraction(int(match["top"]), int(match["bottom"]))
        if match["upper"]:
            return _plain(match["upper"]) / _plain(match["lower"])
        value = _plain(match["plain"])
        return value * Fraction(10) ** int(match["power"]) if match["power"] else value
    except ZeroDivisionError:
        return None


def _plain(digits: str) -> Fraction:
    return Fraction(digits.replace(",", "").rjust(1, "0"))

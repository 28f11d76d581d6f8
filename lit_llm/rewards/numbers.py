"""Numbers as people and models write them in an answer: commas, currencies, units, fractions, percent."""

from __future__ import annotations

import re
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

_WORD = r"(?:a\s+)?[^\W\d_]{2,}(?:[-'’][^\W\d_]{2,})*"  # one letter alone is a variable rather than a unit
_UNITS = re.compile(rf"\$?(?:\s+{_WORD})*\s*[*$]*\.?")
_WORDS_BEFORE = re.compile(rf"(?:{_WORD}[:,.]?\s+)*\**")
_SCALES = ("hundred", "thousand", "million", "billion", "trillion", "dozen")
_MATHEMATICS = ("pi", "sqrt", "squared", "cubed", "factorial", "times", "plus", "minus", "over")
_PART_OF_THE_VALUE = frozenset((*_SCALES, *_MATHEMATICS))
_DELIMITERS = re.compile(r"\\[()\[\]]")  # LaTeX's, around mathematics
_TAG = re.compile(r"<<[^<>]*>>|</?[A-Za-z]\w*>")  # GSM8K's calculator, <answer>
_TERM_BEFORE = re.compile(r"[\\^_{]\s*$|[<>]\s*$|[^\W\d_][-+*/]$")
_TERM_BEHIND = re.compile(r"[^\W\d_]|[{(]|[ \t]*(?:[\^_!=<>]|\\(?![)\]]))")


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


def last_number(text: str) -> Number | None:
    """The last number of a text; None where it is only a part of a term there: ``5x``, ``3\\pi``, ``x^2``, ``3!``."""
    text = _TAG.sub(" ", text)
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007
        pass
    if last is None or _TERM_BEFORE.search(text[max(0, last.start() - 40) : last.start()]):
        return None
    return None if _TERM_BEHIND.match(text, last.end()) else _number(last)


def quantity(text: str) -> Number | None:
    """The number that a text is, with a currency or units in words: ``$1,234.50``, ``72 clips``.

    None where anything else stands there: another number, words before it (``Apollo 11`` is a name), a term (``5x``).
    """
    return _alone(text, words_before=False)


def only_number(text: str) -> Number | None:
    """The one number of a text that is otherwise words: ``She sold 72 clips``. None for other texts."""
    return _alone(text, words_before=True)


def _alone(text: str, words_before: bool) -> Number | None:
    text = _DELIMITERS.sub("", text).strip(" \t\r\n*`\"'")
    found = list(_NUMBER.finditer(text))
    if len(found) != 1:
        return None
    before, behind = text[: found[0].start()], text[found[0].end() :]
    if (before and not (words_before and _WORDS_BEFORE.fullmatch(before))) or not _UNITS.fullmatch(behind):
        return None
    said = set(re.findall(r"[^\W\d_]+", f"{before} {behind}".casefold()))
    return None if said & _PART_OF_THE_VALUE else _number(found[0])


def _number(match: re.Match[str]) -> Number | None:
    value = None if len(match[0]) > LONGEST else _value(match)
    if value is None:
        return None
    minus = any(mark in (match["sign"] or "") + (match["before"] or "") for mark in "-−–")
    return Number(-value if minus else value, bool(match["percent"]))


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

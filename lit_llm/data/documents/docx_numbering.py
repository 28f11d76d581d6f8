"""The numbers that Word computes and does not write: ``2.1``, ``(a)``, a bullet. A contract refers to its clauses by
them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from lit_llm.data.documents.package import attribute, child, local

_ROMAN = ((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
          (9, "ix"), (5, "v"), (4, "iv"), (1, "i"))  # fmt: skip


class Number(NamedTuple):
    """What stands before a paragraph."""

    indent: str = ""
    mark: str = ""


class _Level(NamedTuple):
    kind: str
    text: str
    start: int


class Numbering:
    """Counts the numbered paragraphs of a document in their order."""

    def __init__(self, root: Any) -> None:
        abstract: dict[str, dict[int, _Level]] = {}
        self._lists: dict[str, tuple[str, dict[int, _Level]]] = {}
        self._counts: dict[str, dict[int, int]] = {}
        for one in [] if root is None else root:
            if local(one) == "abstractNum":
                abstract[attribute(one, "abstractNumId") or ""] = _levels(one)
            elif local(one) == "num" and (of := child(one, "abstractNumId")) is not None:
                name, number = attribute(of, "val") or "", attribute(one, "numId") or ""
                own: dict[int, _Level] = {}
                for override in one:
                    if local(override) == "lvlOverride":
                        own |= _levels(override)
                        start = child(override, "startOverride")
                        at = _number(attribute(override, "ilvl"))
                        if start is not None and (level := {**abstract.get(name, {}), **own}.get(at)):
                            own[at] = level._replace(start=_number(attribute(start, "val"), 1))
                # A list that begins anew counts for itself; all others of one abstract list go on together.
                self._lists[number] = (f"{name}/{number}" if own else name, {**abstract.get(name, {}), **own})

    def of(self, properties: Sequence[Any]) -> Number:
        """The number of a paragraph by its own properties and then its styles'."""
        found = next((one for one in (child(each, "numPr") for each in properties) if one is not None), None)
        if found is None:
            return Number()
        ids = [child(one, "numPr", "numId") for one in properties]
        name = next((attribute(one, "val") for one in ids if one is not None), None)
        level = child(found, "ilvl")
        at = _number(attribute(level, "val")) if level is not None else 0
        if name not in self._lists:
            return Number()
        home, levels = self._lists[name]
        mine = levels.get(at)
        if mine is None or mine.kind == "none":
            return Number()
        indent = "  " * at
        if mine.kind == "bullet":
            return Number(indent, "- ")
        counts = self._counts.setdefault(home, {})
        counts[at] = counts.get(at, mine.start - 1) + 1
        for deeper in [one for one in counts if one > at]:
            del counts[deeper]
        for above in range(at):
            counts.setdefault(above, levels[above].start if above in levels else 1)

        def count(match: re.Match[str]) -> str:
            of = int(match[1]) - 1
            return written(levels[of].kind if of in levels else "decimal", counts.get(of, 1))

        text = re.sub(r"%(\d)", count, mine.text).strip()
        return Number(indent, f"{text} " if text else "")


def _levels(parent: Any) -> dict[int, _Level]:
    found = {}
    for one in parent:
        if local(one) == "lvl":
            kind, text, start = (child(one, name) for name in ("numFmt", "lvlText", "start"))
            found[_number(attribute(one, "ilvl"))] = _Level(
                (attribute(kind, "val") or "decimal") if kind is not None else "decimal",
                (attribute(text, "val") or "") if text is not None else "",
                _number(attribute(start, "val"), 1) if start is not None else 1,
            )
    return found


def _number(text: str | None, otherwise: int = 0) -> int:
    return int(text) if text and re.fullmatch(r"-?\d{1,6}", text) else otherwise


def written(kind: str, number: int) -> str:
    """A number in one of Word's formats, by its name in a file."""
    if kind in ("lowerLetter", "upperLetter") and number > 0:
        letter = chr(ord("a") + (number - 1) % 26) * ((number - 1) // 26 % 10 + 1)
        return letter.upper() if kind == "upperLetter" else letter
    if kind in ("lowerRoman", "upperRoman") and 0 < number < 4000:
        text = ""
        for value, letters in _ROMAN:
            text += letters * (number // value)
            number %= value
        return text.upper() if kind == "upperRoman" else text
    if kind == "decimalZero":
        return f"{number:02d}"
    return str(number)

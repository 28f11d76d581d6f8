"""The numbers of OpenDocument's lists and headings, which a file has as styles and does not write (ODF 1.3, part 3,
section 16.31)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lit_llm.data.documents.docx_numbering import written
from lit_llm.data.documents.package import attribute, local

BULLET = "- "
_KINDS = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}
_OUTLINE = "\0outline"  # the name under which headings are counted


class _Level(NamedTuple):
    kind: str  # "": it has no number
    before: str
    behind: str
    start: int
    shown: int  # how many levels


class Numbering:
    """Counts list items and headings in their order.

    Args:
        roots: of the files that have styles; None for one that is not there.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._styles: dict[str, dict[int, _Level]] = {}
        self._counts: dict[str, dict[int, int]] = {}
        for root in roots:
            for one in root.iter("{*}list-style", "{*}outline-style") if root is not None else ():
                name = _OUTLINE if local(one) == "outline-style" else attribute(one, "name") or ""
                self._styles[name] = dict(map(_level, one))

    def begin(self, style: str) -> None:
        """A list that does not go on with the numbers of one before."""
        self._counts.pop(style, None)

    def item(self, style: str, level: int, start: str | None) -> str:
        """What stands before the next item of a list, whose outermost level is 1. ``start``: its own number."""
        return self._next(style, level, _whole(start, -1)) or BULLET

    def heading(self, level: int) -> str:
        """What stands before the next heading."""
        return self._next(_OUTLINE, level, -1)

    def _next(self, style: str, level: int, number: int) -> str:
        levels, counts = self._styles.get(style, {}), self._counts.setdefault(style, {})
        own = levels.get(level)
        counts[level] = number if number >= 0 else counts.get(level, (own.start if own else 1) - 1) + 1
        for deeper in [one for one in counts if one > level]:
            del counts[deeper]
        if own is None or not own.kind:
            return ""
        shown = [one for one in range(max(1, level - own.shown + 1), level + 1) if one in levels and levels[one].kind]
        numbers = [written(levels[one].kind, counts.get(one, levels[one].start)) for one in shown]
        return f"{own.before}{'.'.join(numbers)}{own.behind}".strip() + " "


def _level(element: Any) -> tuple[int, _Level]:
    said = {name: attribute(element, name) for name in ("level", "start-value", "display-levels")}
    return _whole(said["level"], 0), _Level(
        _KINDS.get(attribute(element, "num-format") or "", ""),
        attribute(element, "num-prefix") or "",
        attribute(element, "num-suffix") or "",
        _whole(said["start-value"], 1),
        _whole(said["display-levels"], 1),
    )


def _whole(text: str | None, otherwise: int) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 7 else otherwise

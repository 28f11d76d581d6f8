"""What an OpenDocument file holds and does not show: by a style of text, sheets or slides, or by an element's own word
(ODF 1.3, part 3, sections 16, 19.457, 19.768, 20.245, 20.376)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lit_llm.data.documents.package import attribute, local


class _Style(NamedTuple):
    parent: str
    hides: bool | None  # None: as the style that it is based on


_SAYS = {
    "text-properties": ("display", "none"),
    "table-properties": ("display", "false"),
    "drawing-page-properties": ("visibility", "hidden"),
}
"""By the element of a style, the attribute that hides, and its value."""
_OUT_OF_SIGHT = ("collapse", "filter")


class Hidden:
    """Styles that hide what they are given to.

    Args:
        roots: of the files that have styles; None for one that is not there.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._styles: dict[tuple[str, str], _Style] = {}
        for root in roots:
            for one in root.iter("{*}style") if root is not None else ():
                key = attribute(one, "family") or "", attribute(one, "name") or ""
                self._styles[key] = _Style(attribute(one, "parent-style-name") or "", _hides(one))

    def by_style(self, element: Any, family: str, otherwise: bool = False) -> bool:
        """Whether an element's style of a family, or the first one it is based on that says so, hides it."""
        name, seen = attribute(element, "style-name") or "", set[str]()
        while name and name not in seen and (found := self._styles.get((family, name))) is not None:
            if found.hides is not None:
                return found.hides
            seen.add(name)
            name = found.parent
        return otherwise


def _hides(style: Any) -> bool | None:
    for one in style:
        name, value = _SAYS.get(local(one), ("", ""))
        said = attribute(one, name) if name else None
        if said is not None:
            return said == value
    return None


def by_itself(element: Any) -> bool:
    """Whether a section, a group of rows, or a piece of a paragraph says of itself that it is not shown."""
    name = local(element)
    if name == "section":
        return attribute(element, "display") == "none" or attribute(element, "is-hidden") == "true"
    if name in ("hidden-text", "hidden-paragraph"):
        return attribute(element, "is-hidden") == "true"
    return name == "table-row" and attribute(element, "visibility") in _OUT_OF_SIGHT


def paragraph_by_itself(paragraph: Any) -> bool:
    """Whether a field in a paragraph hides the whole of it."""
    fields = (one for one in paragraph.iter("{*}hidden-paragraph") if by_itself(one))
    return any(next(one.iterancestors("{*}p", "{*}h"), None) is paragraph for one in fields)


def columns(table: Any) -> list[tuple[int, int]]:
    """The columns of a table that are not shown: the first of each run, from 0, and the one behind its last."""
    found: list[tuple[int, int]] = []
    at = 0
    for one in _columns(table):
        times = repeated(one, "number-columns-repeated")
        if attribute(one, "visibility") in _OUT_OF_SIGHT:
            found.append((at, at + times))
        at += times
    return found


def _columns(parent: Any) -> Iterable[Any]:
    for one in parent:
        if local(one) == "table-column":
            yield one
        elif local(one) in ("table-columns", "table-header-columns", "table-column-group"):
            yield from _columns(one)


def shown(runs: list[tuple[int, int]], begin: int, times: int) -> int:
    """How many of so many columns from ``begin`` on are in none of the runs."""
    return times - sum(max(0, min(last, begin + times) - max(first, begin)) for first, last in runs)


def repeated(element: Any, name: str) -> int:
    """How often an element stands for itself."""
    value = attribute(element, name) or "1"
    return int(value) if value.isdecimal() and len(value) < 9 else 1

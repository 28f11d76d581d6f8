"""Running headers, footers and page numbers of a PDF: what is no part of its text.

Only the outermost one or two lines of a page may be that, where a gap wider than that between lines parts them from the
text. A page number is a number that steps with the pages. Any other line is one where the same line stands in the same
place of many pages; it is kept where it stands first. When in doubt a line stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from lit_llm.data.documents.pdf_lines import Line

_EDGE = 0.12  # of a page's height, at its top and at its bottom
_MOST = 2  # lines at each edge
_APART = 1.4  # of the usual step between lines: a wider one parts a header from the text
_USUAL = 1.2  # of the letters' size: the step between lines where a document has too few to tell
_ASIDE = 6  # of the letters' size: a page's number is so far from what else is on its line
_REPEATED = 0.3  # of the pages: what is at the edge of so many is a running header
_SAME_PLACE = 2.0  # points: a header stands where it does on every page, text where the text before it ends
_RUN = 3  # pages one after another whose numbers step: a chapter that counts for itself
_WORD = r"(?:page|seite|p\.|s\.|pág\.?|página|صفحة)"
_COUNT = r"(\d{1,5}|[ivxlc]{1,7})(?:\s*(?:/|of|von|de|من|sur)\s*\d{1,5})?"
_WHOLE = re.compile(rf"[\s\-–—|]*(?:{_WORD}\s*)?{_COUNT}[\s\-–—|]*", re.IGNORECASE)
_WITHIN = re.compile(rf"\b{_WORD}\s*{_COUNT}\b|^{_COUNT}(?=\s*[|·•]\s)|(?<=\s[|·•]\s){_COUNT}$", re.IGNORECASE)
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


@dataclass
class Body:
    """A page's lines of the direction that most are written in."""

    lines: list[Line]
    head: list[str] = field(default_factory=list)  # running headers that stand here first
    foot: list[str] = field(default_factory=list)


def without_headers(pages: Sequence[tuple[float, Sequence[Line]]]) -> list[Body]:
    """The pages without what is printed on many of them.

    Args:
        pages: (height in points, lines from its top to its bottom) of each.
    """
    usual = _usual_step([lines for _, lines in pages])
    edges = [_edges(height, lines, usual) for height, lines in pages]
    stepping = _stepping(edges)
    keys = [
        {number: _key(line, page, stepping) for each in sides for number, line in each}
        for page, sides in enumerate(edges)
    ]
    places: tuple[_Places, _Places] = ({}, {})
    for page, sides in enumerate(edges):
        for side, each in enumerate(sides):
            for number, line in each:
                from_edge = line.y if side else pages[page][0] - line.y
                places[side].setdefault(keys[page][number], {}).setdefault(page, from_edge)
    size = median([line.size for _, lines in pages for line in lines] or [0.0])
    kept: set[tuple[int, str]] = set()
    found = []
    for page, (_, lines) in enumerate(pages):
        gone: set[int] = set()
        shown: tuple[list[str], list[str]] = ([], [])
        for side, each in enumerate(edges[page]):
            for number, line in each:
                key = keys[page][number]
                as_text = line.size > 0.95 * size and "\0" not in key  # in the text's letters, without a page's number
                least = max(3 if as_text else 2, math.ceil(_REPEATED * len(pages)))
                if key and (not re.search(r"[^\W\d_]", key) or _alike(places[side][key], page) < least):
                    continue  # bare numbers that do not step are amounts
                gone.add(number)
                if key and (side, key) not in kept:
                    kept.add((side, key))
                    shown[side].append(line.text)
        found.append(Body([line for number, line in enumerate(lines) if number not in gone], *shown))
    return found


def _alike(places: Mapping[int, float], page: int) -> int:
    """On how many pages a line stands where it does on one."""
    return sum(1 for place in places.values() if abs(place - places[page]) <= _SAME_PLACE)


def _usual_step(pages: Sequence[Sequence[Line]]) -> float:
    """The usual step between the lines of a paragraph, by the letters' size."""
    steps = [(a.y - b.y) / b.size for lines in pages for a, b in pairwise(lines) if 0 < a.y - b.y < 3 * b.size]
    return sorted(steps)[len(steps) // 4] if steps else _USUAL


_Edge = list[tuple[int, Line]]
_Places = dict[str, dict[int, float]]  # by a line's key: how far it is from the edge, on each page that has it


def _edges(height: float, lines: Sequence[Line], usual: float) -> tuple[_Edge, _Edge]:
    """(place, line) of those at the top and at the bottom that stand apart from the text."""
    above = [(number, line) for number, line in enumerate(lines[:_MOST]) if line.y >= (1 - _EDGE) * height]
    below = [(number, line) for number, line in enumerate(lines) if line.y <= _EDGE * height][-_MOST:]
    while above and above[-1][0] + 1 < len(lines) and not _apart(above[-1][1], lines[above[-1][0] + 1], usual):
        above.pop()
    while below and below[0][0] > 0 and not _apart(lines[below[0][0] - 1], below[0][1], usual):
        below.pop(0)
    taken = {number for number, _ in above}
    return above, [one for one in below if one[0] not in taken]


def _apart(above: Line, below: Line, usual: float) -> bool:
    return above.y - below.y > _APART * usual * min(above.size, below.size)


def _counts(line: Line) -> Iterator[tuple[int, int, int, int]]:
    """What may be a page's number: (segment, begin, end, number)."""
    for number, segment in enumerate(line.segments):
        whole = _WHOLE.fullmatch(segment.text)
        beside = [*line.segments[max(number - 1, 0) : number], *line.segments[number + 1 : number + 2]]
        if whole and any(max(segment.x0 - one.x1, one.x0 - segment.x1) < _ASIDE * line.size for one in beside):
            continue  # as in "Invoice no.  17"
        for match in [whole] if whole else _WITHIN.finditer(segment.text):
            value = _number(next(filter(None, match.groups())))
            if value is not None:
                yield number, match.start(), match.end(), value


def _number(text: str) -> int | None:
    if text.isdecimal():
        return int(text)
    values = [_ROMAN[letter] for letter in text.lower()]
    return sum(-one if one < after else one for one, after in pairwise([*values, 0]))


def _stepping(edges: Sequence[tuple[_Edge, _Edge]]) -> set[tuple[int, int]]:
    """(page, number) of those that are the page's own: as far from its place in the file on many pages."""
    pages: dict[int, set[int]] = {}
    for page, sides in enumerate(edges):
        for _, line in (one for each in sides for one in each):
            for *_, value in _counts(line):
                pages.setdefault(value - page, set()).add(page)
    least = max(2, math.ceil(_REPEATED * len(edges)))
    found = set()
    for offset, own in pages.items():
        for page in own:
            run = any(own.issuperset(range(begin, begin + _RUN)) for begin in range(page - _RUN + 1, page + 1))
            if len(own) >= least or run:
                found.add((page, page + offset))
    return found


def _key(line: Line, page: int, stepping: set[tuple[int, int]]) -> str:
    """What a running header says on every page: its text without the page's number; "" for that number alone."""
    texts = [segment.text for segment in line.segments]
    for number, begin, end, value in reversed(list(_counts(line))):
        if (page, value) in stepping:
            texts[number] = texts[number][:begin] + "\0" + texts[number][end:]
    text = re.sub(r"\s+", "", "".join(texts)).lower()
    rest = text.replace("\0", "")
    return f"{line.size:.0f}\n{text}" if rest else ""  # a title in larger letters is none

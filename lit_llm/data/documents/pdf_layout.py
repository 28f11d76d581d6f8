"""The order in which a page is read: columns one after another, tables by rows, lines to paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from lit_llm.data.documents.parts import row
from lit_llm.data.documents.pdf_lines import APART, Line, Segment

_COLUMN_LINES = 3  # at least, of a column of running text
_COLUMN_WORDS = 3  # on its lines, as a rule
_FILLED = 0.55  # of a column's width, that its lines fill as a rule: cells of a table are shorter
_MAX_COLUMNS = 4
_SPACE = 3.5  # of the letters' size: a wider space between two lines ends columns and tables
_END = re.compile(r"[.!?:;؟。！？…]['\"”’»)\]]*$")
_BULLETS = "•●○◦▪■□‣➢✓*·"  # with which no line of a sentence begins
_WIDE_SCRIPT = re.compile("[\u3000-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uffef]")
_KEPT_BEFORE = re.compile(r"(und|oder|bzw|and|or|et|ou|y|o|e|to)\b")


@dataclass(frozen=True)
class Layout:
    """What holds for a whole document."""

    right_to_left: bool = False
    hyphenated: frozenset[str] = frozenset()  # words that are written with a hyphen within a line


def blocks(lines: Sequence[Line], layout: Layout, depth: int = 0) -> list[str]:
    """Paragraphs and tables in the order they are read."""
    found: list[str] = []
    waiting: list[Line] = []  # lines of one column
    at = 0
    while at < len(lines):
        run = _run(lines, at) if depth < _MAX_COLUMNS else None
        if run is None:
            waiting.append(lines[at])
            at += 1
            continue
        end, gutters = run
        bands = _bands(lines[at:end], gutters)
        if _is_running_text(bands):
            found += paragraphs(waiting, layout)
            waiting = []
            for band in reversed(bands) if layout.right_to_left else bands:
                found += blocks(band, layout, depth + 1)
            at = end
            continue
        first, end = _table(lines, at, end)
        if end - first < 2:  # two pieces on a line, and no table
            waiting += lines[at : max(end, at + 1)]
            at = max(end, at + 1)
            continue
        found += paragraphs([*waiting, *lines[at:first]], layout)
        waiting = []
        found.append(_rows(lines[first:end], _gutters(lines[first:end]), layout))
        at = end
    return found + paragraphs(waiting, layout)


def _run(lines: Sequence[Line], begin: int) -> tuple[int, list[float]] | None:
    """The longest run of lines from one on that a vertical gap goes through: its end, and the middles of the gaps."""
    covered: list[tuple[float, float]] = []
    found: tuple[int, list[float]] | None = None
    least = APART * median(line.size for line in lines[begin : begin + 20])
    for end in range(begin, len(lines)):
        if end > begin and lines[end - 1].y - lines[end].y > _SPACE * lines[end].size:
            break
        covered = _united(covered, lines[end].segments)
        gaps = [(a[1], b[0]) for a, b in pairwise(covered) if b[0] - a[1] >= least]
        if gaps:
            found = end + 1, [(left + right) / 2 for left, right in gaps]
        elif found or end - begin >= 1:
            break
    return found


def _gutters(lines: Sequence[Line]) -> list[float]:
    """The middles of the gaps that go through all lines of a table."""
    covered = _united([], [one for line in lines for one in line.segments])
    least = 0.6 * APART * median(line.size for line in lines)
    return [(a[1] + b[0]) / 2 for a, b in pairwise(covered) if b[0] - a[1] >= least]


def _united(covered: Sequence[tuple[float, float]], segments: Sequence[Segment]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for x0, x1 in sorted([*covered, *((one.x0, one.x1) for one in segments)]):
        if found and x0 <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], x1)
        else:
            found.append((x0, x1))
    return found


def _bands(lines: Sequence[Line], gutters: Sequence[float]) -> list[list[Line]]:
    """The lines of each band between two gaps."""
    found: list[list[Line]] = [[] for _ in range(len(gutters) + 1)]
    for line in lines:
        for number in range(len(found)):
            own = [one for one in line.segments if _band(one, gutters) == number]
            if own:
                found[number].append(replace(line, segments=own, y=own[0].y, size=max(one.size for one in own)))
    return found


def _band(segment: Segment, gutters: Sequence[float]) -> int:
    return sum(1 for gutter in gutters if segment.x0 > gutter)


def _is_running_text(bands: Sequence[Sequence[Line]]) -> bool:
    if not 2 <= len(bands) <= _MAX_COLUMNS:
        return False
    for band in bands:
        if len(band) < _COLUMN_LINES:
            return False
        width = max(one.segments[-1].x1 for one in band) - min(one.segments[0].x0 for one in band)
        filled = median((one.segments[-1].x1 - one.segments[0].x0) / max(width, 1e-6) for one in band)
        words = median(max(len(one.text.split()), len(_WIDE_SCRIPT.findall(one.text)) / 3) for one in band)
        if filled < _FILLED or words < _COLUMN_WORDS:
            return False
    return True


def _table(lines: Sequence[Line], begin: int, end: int) -> tuple[int, int]:
    """A table's first line and its end: lines of one piece around it are none of its rows."""
    while begin < end and len(lines[begin].segments) < 2:
        begin += 1
    while end > begin and len(lines[end - 1].segments) < 2:
        end -= 1
    return begin, end


def _rows(lines: Sequence[Line], gutters: Sequence[float], layout: Layout) -> str:
    """Rows as lines. A line without a first cell, close below a row, goes on in that row's cells."""
    steps = [above.y - below.y for above, below in pairwise(lines)]
    usual = median(steps) if steps else 0.0
    rows: list[list[str]] = []
    for number, line in enumerate(lines):
        cells = [""] * (len(gutters) + 1)
        for one in line.segments:
            at = _band(one, gutters)
            cells[at] = f"{cells[at]} {one.text}".strip()
        if layout.right_to_left:
            cells.reverse()
        if rows and not cells[0] and steps[number - 1] <= min(usual, 1.35 * line.size):
            rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], cells, strict=True)]
        else:
            rows.append(cells)
    return "\n".join(map(row, rows))


def paragraphs(lines: Sequence[Line], layout: Layout) -> list[str]:
    """Lines of one column as paragraphs."""
    if not lines:
        return []
    left = min(line.segments[0].x0 for line in lines)
    right = max(line.segments[-1].x1 for line in lines)
    steps = [a.y - b.y for a, b in pairwise(lines) if 0 < a.y - b.y < 3 * a.size]
    usual = _smaller(steps) if steps else 0.0
    found = [lines[0].text]
    for above, line in pairwise(lines):
        if _begins(above, line, usual, left, right, layout):
            found.append(line.text)
        else:
            found[-1] = joined(found[-1], line.text, layout)
    return found


def _smaller(steps: Sequence[float]) -> float:
    """The usual step between two lines of a paragraph: the lower quartile, since those between paragraphs are wider."""
    return sorted(steps)[len(steps) // 4]


def _begins(above: Line, line: Line, usual: float, left: float, right: float, layout: Layout) -> bool:
    """Whether a line begins a paragraph."""
    if above.y - line.y > 1.3 * usual or above.y < line.y:
        return True
    if abs(above.size - line.size) > 0.12 * max(above.size, line.size):
        return True
    width = right - left
    first, last = (above.segments[0].x0, line.segments[0].x0)
    if layout.right_to_left:
        indented = right - line.segments[-1].x1 > line.size and right - above.segments[-1].x1 < 0.5 * line.size
        short = above.segments[0].x0 - left > 0.2 * width
    else:
        indented = last - left > line.size and first - left < 0.5 * line.size and last - left < 0.3 * width
        short = right - above.segments[-1].x1 > 0.2 * width
    ended = bool(_END.search(above.text))
    if line.segments[0].marker and (ended or short or _itemizes(above.segments[0], line.segments[0])):
        return True
    return (indented and not above.segments[0].marker) or (short and ended)


def _itemizes(above: Segment, line: Segment) -> bool:
    """Whether what looks like an item's mark is one, and no number that a sentence goes on with on its next line."""
    return line.text[0] in _BULLETS or above.marker or line.x0 < above.x0 - 0.5 * line.size


def joined(above: str, below: str, layout: Layout) -> str:
    """Two lines of a paragraph. A word that is divided at the line's end is one word again."""
    if above.endswith(("-", "\u2010")) and len(above) > 1 and above[-2].isalpha() and below[:1].isalpha():
        if not below[0].islower():
            return above + below
        if _KEPT_BEFORE.match(below):
            return f"{above} {below}"
        word = re.split(r"\s", above)[-1] + re.split(r"[^\w-]", below)[0]
        return above + below if word.lower() in layout.hyphenated else above[:-1] + below
    if above and below and _WIDE_SCRIPT.match(above[-1]) and _WIDE_SCRIPT.match(below[0]):
        return above + below
    return f"{above} {below}"


def hyphenated(pages: Sequence[Sequence[Line]]) -> frozenset[str]:
    """Words with a hyphen that stand within a line."""
    return frozenset(
        word.lower().strip(".,;:()\"'") for lines in pages for line in lines for word in _inner_words(line.text)
    )


def _inner_words(text: str) -> Iterator[str]:
    return (word for word in text.split() if "-" in word[1:-1] and not word.endswith("-"))

"""Words of a page to lines, and each line to segments that stand apart: the cells of a table, or one column's line.

Letters that are written from right to left are put into the order they are read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lit_llm.data.documents.pdf_words import RIGHT_TO_LEFT, Word

APART = 0.9  # of the letters' size: a wider gap may be that between columns
_BLANK = 0.16  # of the letters' size: a wider gap is a blank
_SAME_LINE = 0.4  # of the letters' size: an index or exponent is on its line
_FORMS = re.compile("[\ufb00-\ufb06\ufb13-\ufb17\ufb1d-\ufb4f\ufb50-\ufdff\ufe70-\ufefc]")
_LEADERS = re.compile(r"(?: ?[.\u2024\u2026·]){5,} ?")  # of a table of contents
_MARKER = re.compile(r"[•●○◦▪■□‣➢✓–—*·-]|\(?(\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)]|(\d{1,2}\.){1,3}\d{0,2}")


@dataclass(slots=True)
class Segment:
    """A piece of a line without a wide gap in it."""

    x0: float
    x1: float
    y: float
    size: float
    text: str
    marker: bool = False  # begins with a list item's mark


@dataclass(slots=True)
class Line:
    segments: list[Segment]  # from left to right
    y: float
    size: float

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)


def lines(words: Sequence[Word], right_to_left: bool) -> list[Line]:
    """Lines from the top of the page to its bottom.

    Args:
        right_to_left: the direction of a line that has letters of both directions in equal number.
    """
    found: list[list[Word]] = []
    for word in sorted(words, key=lambda one: -one.y):
        if found and found[-1][0].y - word.y <= _SAME_LINE * max(found[-1][0].size, word.size):
            found[-1].append(word)
        else:
            found.append([word])
    return [_line(each, right_to_left) for each in found]


def _line(words: list[Word], right_to_left: bool) -> Line:
    words = _once(sorted(words, key=lambda one: one.x0))
    size = max(word.size for word in words)
    pieces: list[list[Word]] = []
    for word in words:
        gap = word.x0 - max(one.x1 for one in pieces[-1][-4:]) if pieces else 0.0
        beside = pieces and gap <= APART * max(pieces[-1][-1].size, word.size)
        after = pieces and len(pieces[-1]) == 1 and _MARKER.fullmatch(pieces[-1][0].text) and gap <= 5 * word.size
        if beside or after:
            pieces[-1].append(word)
        else:
            pieces.append([word])
    segments = []
    for piece in pieces:
        big = max(piece, key=lambda one: one.size)
        text = _joined(piece, right_to_left)
        marker = bool(_MARKER.fullmatch(text.split(" ")[0])) and " " in text
        x1 = max(one.x1 for one in piece)
        segments.append(Segment(piece[0].x0, x1, big.y, big.size, text, marker))
    return Line(segments, max(words, key=lambda one: one.size).y, size)


def _once(words: list[Word]) -> list[Word]:
    """Without what is shown twice in one place, as bold letters sometimes are."""
    kept: list[Word] = []
    for word in words:
        near = 0.12 * word.size
        if not any(
            one.text == word.text and abs(one.x0 - word.x0) < near and abs(one.x1 - word.x1) < near for one in kept[-6:]
        ):
            kept.append(word)
    return kept


def _joined(words: list[Word], right_to_left: bool) -> str:
    """The text of words from left to right, in the order it is read."""
    if not any(word.right_to_left for word in words):
        text = words[0].text
        for before, word in pairwise(words):
            wide = word.x0 - before.x1 > _BLANK * max(before.size, word.size)
            text += (" " if wide or word.blank else "") + word.text
        return _plain(text)
    return _plain("".join(_read_order(_clusters(words), right_to_left)))


def _plain(text: str) -> str:
    """Letters for ligatures and for the forms that Arabic letters take in a word."""
    text = _LEADERS.sub(" ... ", text)
    return _FORMS.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text).replace("\xad", "")


def _clusters(words: list[Word]) -> list[str]:
    """Letters with their marks, and blanks, from left to right."""
    bases = [word for word in words if not _is_mark(word.text)]
    marks: dict[int, str] = {}
    for word in words:
        if _is_mark(word.text) and bases:
            middle = (word.x0 + word.x1) / 2
            home = min(bases, key=lambda one: max(one.x0 - middle, middle - one.x1, 0.0) + abs(one.x0 - middle) * 1e-3)
            marks[id(home)] = marks.get(id(home), "") + word.text
    clusters: list[str] = []
    end = None
    for word in bases:
        gap = word.x0 - end if end is not None else 0.0
        # A blank before a glyph in the stream stands left of it only where the stream runs from left to right.
        if end is not None and (gap > _BLANK * word.size or (word.blank and gap > 0.08 * word.size)):
            clusters.append(" ")
        end = word.x1 if end is None else max(end, word.x1)
        letters = word.text + marks.get(id(word), "")
        if word.right_to_left or word.whole:
            clusters.append(letters)
        else:
            clusters += letters
    return clusters


def _is_mark(text: str) -> bool:
    return all(unicodedata.category(one) == "Mn" for one in text)


def _direction(cluster: str) -> str:
    kind = unicodedata.bidirectional(cluster[0])
    return "R" if kind in RIGHT_TO_LEFT else "L" if kind == "L" else "D" if kind in ("EN", "AN") else ""


def _read_order(clusters: list[str], right_to_left: bool) -> list[str]:
    """The order of reading of what is seen from left to right: the reverse of UAX 9, rule L2, with two levels."""
    directions = [_direction(one) for one in clusters]
    right, left = directions.count("R"), directions.count("L")
    if right > left or (right == left and right_to_left):
        return _turned_runs([_mirrored(one) for one in reversed(clusters)], "LD")
    return _turned_runs(clusters, "R", "D")


def _turned_runs(clusters: list[str], kinds: str, inner: str = "") -> list[str]:
    """Turns round each run of letters of some kinds, with what is between two of them.

    Args:
        kinds: of ``L``, ``R`` and ``D`` (digits).
        inner: what may be between them, and keeps its own order: numbers among Arabic words.
    """
    directions = [_direction(one) for one in clusters]
    found: list[str] = []
    at = 0
    while at < len(clusters):
        if not directions[at] or directions[at] not in kinds:
            found.append(clusters[at])
            at += 1
            continue
        end = last = at
        while end < len(clusters) and (not directions[end] or directions[end] in kinds + inner):
            if clusters[end] == " " and directions[last] == "D" and _next(directions, end) == "D":
                break  # two numbers, of which the right one is read first
            last = end if directions[end] and directions[end] in kinds else last
            end += 1
        run = [_mirrored(one) for one in reversed(clusters[at : last + 1])]
        found += _turned_runs(run, inner) if inner else run
        at = last + 1
    return found


def _next(directions: Sequence[str], at: int) -> str:
    return next((one for one in directions[at:] if one), "")


def _mirrored(cluster: str) -> str:
    return _MIRROR.get(cluster, cluster)


_MIRROR = dict(zip("()[]{}<>«»", ")(][}{><»«", strict=True))

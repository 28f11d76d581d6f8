"""What every reader gives: the parts of a document in reading order, each a page, section, sheet or slide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CELL = " | "
"""Between two cells of a table's row. A row is a line, a table a paragraph: so in every kind."""
_BLANK_LINES = re.compile(r"\n{3,}")
_TRAILING = re.compile(r"[ \t\xa0]+\n")
# Control characters that no text has (line ends and tabs stay), and halves of surrogate pairs, which UTF-8 cannot hold.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff\ufeff]")
_ITEM = re.compile(r" *(- |\d+[.)] |\[\^\d+\]: )")
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")


class Unreadable(Exception):  # noqa: N818 (it is what the document is)
    """A document that gives no text. ``reason`` is the word under which it is counted; the text says what to do."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


def broken(error: object) -> Unreadable:
    """What is said of a document that a parser takes for none."""
    what = " ".join(str(error).split())[:100] or type(error).__name__
    return Unreadable("broken_document", f"broken ({what}); save it anew")


@dataclass(frozen=True, slots=True)
class Part:
    """A page, section, sheet or slide."""

    name: str  # "page 3", "section Payment", "sheet Costs", "slide 2"; "" for what is before the first heading
    text: str
    joint: str = "\n\n"  # between the part before and this one: a sentence may go on over a page's end


def tidy(text: str) -> str:
    """One kind of line end, no control characters, no blanks at line ends, at most one blank line."""
    text = _CONTROL.sub("", _LINE_END.sub("\n", text))
    return _BLANK_LINES.sub("\n\n", _TRAILING.sub("\n", text)).strip()


def one_line(text: str) -> str:
    """A text with every run of white space as one blank."""
    return " ".join(text.split())


def row(cells: Iterable[str]) -> str:
    """A table's row as a line, without the empty cells at its end; "" for a row without text."""
    texts = [one_line(cell) for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    return CELL.join(texts)


def heading(level: int, text: str) -> str:
    """A heading as Markdown writes it: models read that, and it tells a heading from a short paragraph."""
    return f"{'#' * min(max(level, 1), 6)} {one_line(text)}"


def named(title: str) -> str:
    """The name of a section."""
    title = one_line(title)
    return f"section {title[:60].rstrip()}{'...' if len(title) > 60 else ''}"


def sections(blocks: Iterable[tuple[int, str]]) -> list[Part]:
    """Blocks of text with the level of their heading (0: none) as parts, of which each begins at a heading, also at one
    right below another: what stands under a title's first heading is of that, and not of the title."""
    found: list[tuple[str, list[str]]] = []
    for level, text in blocks:
        if not text.strip():
            continue
        if level or not found:
            found.append((named(text) if level else "", []))
        found[-1][1].append(heading(level, text) if level else text)
    return [Part(name, paragraphs(texts)) for name, texts in found]


def paragraphs(texts: Iterable[str]) -> str:
    """Texts with a blank line between them; the items of a list and the notes of a section have none."""
    listed = False
    pieces: list[str] = []
    for text in texts:
        item = bool(_ITEM.match(text))
        if pieces:
            pieces.append("\n" if item and listed else "\n\n")
        pieces.append(text)
        listed = item
    return "".join(pieces)


def joined(parts: Sequence[Part]) -> tuple[str, tuple[tuple[int, str], ...]]:
    """The document's text, and where each named part begins in it: (character, name)."""
    places: list[tuple[int, str]] = []
    pieces: list[str] = []
    length = 0
    for part in parts:
        text = tidy(part.text)
        if not text:
            continue
        if pieces:
            pieces.append(part.joint)
            length += len(part.joint)
        if part.name:
            places.append((length, part.name))
        pieces.append(text)
        length += len(text)
    return "".join(pieces), tuple(places)

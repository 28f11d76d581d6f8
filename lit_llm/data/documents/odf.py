"""OpenDocument files: texts (.odt), sheets (.ods) and slides (.odp). Tracked changes, comments, tables of contents,
running headers and what is hidden are left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lit_llm.data.documents import odf_hidden
from lit_llm.data.documents.odf_hidden import Hidden, repeated
from lit_llm.data.documents.odf_numbering import Numbering
from lit_llm.data.documents.package import Package, attribute, child, local
from lit_llm.data.documents.parts import Part, Unreadable, broken, one_line, paragraphs, row, sections, tidy

_NOT_READ = {"tracked-changes", "annotation", "annotation-end", "table-of-content", "sequence-decls", "forms", "change",
             "ruby-text", "title", "desc", "event-listeners", "settings"}  # fmt: skip
_BOXES = {"frame", "custom-shape", "rect", "ellipse", "circle", "line", "polyline", "polygon", "path", "connector",
          "caption", "measure", "regular-polygon"}  # fmt: skip
"""Drawings, which hold paragraphs."""
_GIVES = {"tab": "\t", "line-break": "\n"}
_WITHIN = {"s", "note", *_GIVES, *_BOXES}
"""What stands in a paragraph and is no run of its text."""
_MOST_REPEATS = 1000  # of a row or cell with text: what is repeated more often fills a sheet


def read_odf(data: bytes) -> list[Part]:
    """Raises Unreadable."""
    package = Package(data)
    manifest = package.xml("META-INF/manifest.xml")
    if manifest is not None and any(local(one) == "encryption-data" for one in manifest.iter()):
        raise Unreadable("encrypted", "encrypted; save it without its password")
    root = package.xml("content.xml")
    body = None if root is None else child(root, "body")
    if body is None:
        raise broken("no text in it")
    styles = package.xml("styles.xml")
    reader = _Reader(Numbering([styles, root]), Hidden([styles, root]))
    parts: list[Part] = []
    for kind in body:
        if local(kind) == "spreadsheet":
            parts += reader.sheets(kind)
        elif local(kind) == "presentation":
            parts += reader.slides(kind)
        else:
            parts += sections(reader.with_notes(reader.blocks(kind)))
    return parts


class _Reader:
    def __init__(self, numbering: Numbering, hidden: Hidden) -> None:
        self._numbering, self._hidden = numbering, hidden
        self._noted = 0
        self._waiting: list[str] = []

    def with_notes(self, blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        """Blocks with the notes of a section at its end."""
        for level, text in blocks:
            if level:
                own = self._waiting[-1:] if f"[^{self._noted}]" in text else []
                yield from ((0, note) for note in self._waiting[: len(self._waiting) - len(own)])
                self._waiting = own
            yield level, text
        yield from ((0, note) for note in self._waiting)

    def sheets(self, parent: Any) -> Iterator[Part]:
        for table in parent:
            if local(table) != "table" or self._hidden.by_style(table, "table"):
                continue
            if lines := [line for line in map(row, self._rows(table)) if line]:
                name = attribute(table, "name") or ""
                yield Part(f"sheet {one_line(name)}", f"# {one_line(name)}\n\n" + "\n".join(lines))

    def slides(self, parent: Any) -> Iterator[Part]:
        for number, page in enumerate((one for one in parent if local(one) == "page"), start=1):
            if self._hidden.by_style(page, "drawing-page"):
                continue
            notes = child(page, "notes")
            texts = [text for _, text in self._children(page, 0) if text]
            if notes is not None and (said := [text for _, text in self.blocks(notes) if text]):
                texts.append("Notes: " + " ".join(said))
            if texts:
                yield Part(f"slide {number}", paragraphs(texts))

    def _children(self, page: Any, depth: int) -> Iterator[tuple[int, str]]:
        for one in page:
            if local(one) == "frame" and attribute(one, "class") == "title":
                yield from ((0, f"# {one_line(text)}") for _, text in self.blocks(one, depth))
            elif local(one) not in ("notes", *_NOT_READ):
                yield from self.blocks([one], depth)

    def blocks(self, parent: Any, depth: int = 0) -> Iterator[tuple[int, str]]:
        for one in parent:
            name = local(one)
            if odf_hidden.by_itself(one) or (name in ("h", "p") and odf_hidden.paragraph_by_itself(one)):
                continue
            if name in ("h", "p"):
                level = attribute(one, "outline-level") or "1"
                boxes: list[Any] = []
                text = tidy(self._text(one, boxes, self._hidden.by_style(one, "paragraph")))
                at = int(level) if level.isdigit() else 1
                if name == "h" and text:
                    numbered = attribute(one, "is-list-header") != "true"
                    yield at, (self._numbering.heading(at) if numbered else "") + text
                else:
                    yield 0, text
                for box in boxes:
                    yield from self.blocks(box, depth)
            elif name == "list":
                yield from self._list(one, depth)
            elif name == "table":
                yield 0, "\n".join(filter(None, map(row, self._rows(one))))
            elif name and name not in _NOT_READ and name != "notes":
                yield from self.blocks(one, depth)

    def _list(self, parent: Any, depth: int, around: str = "") -> Iterator[tuple[int, str]]:
        style = attribute(parent, "style-name") or around
        if not depth and attribute(parent, "continue-numbering") != "true" and not attribute(parent, "continue-list"):
            self._numbering.begin(style)
        for item in parent:
            mark = ""
            if local(item) == "list-item":
                mark = self._numbering.item(style, depth + 1, attribute(item, "start-value"))
            for one in item if local(item) in ("list-item", "list-header") else ():
                if local(one) == "list":
                    yield from self._list(one, depth + 1, style)
                    continue
                for level, text in self.blocks([one], depth):
                    if level or not text:
                        yield level, text
                    else:
                        yield 0, "  " * depth + (mark or "  ") + text
                        mark = ""

    def _rows(self, table: Any) -> Iterator[list[str]]:
        if not self._hidden.by_style(table, "table"):
            yield from self._rows_of(table, odf_hidden.columns(table))

    def _rows_of(self, parent: Any, hidden: list[tuple[int, int]]) -> Iterator[list[str]]:
        for one in parent:
            if odf_hidden.by_itself(one):
                continue
            if local(one) == "table-row":
                cells = list(self._cells(one, hidden))
                times = min(repeated(one, "number-rows-repeated"), _MOST_REPEATS) if any(cells) else 1
                yield from (cells for _ in range(times))
            elif local(one) in ("table-header-rows", "table-rows", "table-row-group"):
                yield from self._rows_of(one, hidden)

    def _cells(self, parent: Any, hidden: list[tuple[int, int]]) -> Iterator[str]:
        """The cells of a row, without those that an empty one repeats to the sheet's edge, and those of columns that
        are not shown."""
        waiting = at = 0
        for one in parent:
            if local(one) not in ("table-cell", "covered-table-cell"):
                continue
            every = repeated(one, "number-columns-repeated")
            times, at = odf_hidden.shown(hidden, at, every), at + every
            text = " ".join(filter(None, (each for _, each in self.blocks(one)))) if times else ""
            if not text:
                waiting += times
                continue
            yield from [""] * min(waiting, _MOST_REPEATS)
            waiting = 0
            yield from [text] * min(times, _MOST_REPEATS)

    def _text(self, element: Any, boxes: list[Any], hidden: bool) -> str:
        """A paragraph's text; what has paragraphs of its own in it is put into ``boxes``. ``hidden``: what no style in
        it shows is left out."""
        pieces = ["" if hidden else element.text or ""]
        for one in element:
            name = local(one)
            if name and name not in _NOT_READ and name not in _WITHIN and not odf_hidden.by_itself(one):
                pieces.append(self._text(one, boxes, self._hidden.by_style(one, "text", hidden)))
            elif not hidden:
                pieces.append(self._within(one, boxes))
            pieces.append("" if hidden else one.tail or "")
        return "".join(pieces)

    def _within(self, one: Any, boxes: list[Any]) -> str:
        """What stands in a paragraph and is no run of its text."""
        name = local(one)
        if name == "s":
            return " " * min(repeated(one, "c"), _MOST_REPEATS)
        if name == "note":
            return self._note(one)
        if name in _BOXES:
            boxes.append(one)
        return _GIVES.get(name, "")

    def _note(self, note: Any) -> str:
        body = child(note, "note-body")
        self._noted += 1
        mark = f"[^{self._noted}]"
        said = "" if body is None else " ".join(text for _, text in self.blocks(body))
        self._waiting.append(f"{mark}: {said}")
        return mark

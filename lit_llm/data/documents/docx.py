"""Word documents (.docx, ECMA-376): headings, numbered and plain paragraphs, tables, notes. Changes are accepted:
what is deleted is not read. Headers, footers, comments, tables of contents and hidden text are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from lit_llm.data.documents.docx_chunks import Chunks
from lit_llm.data.documents.docx_numbering import Numbering
from lit_llm.data.documents.package import Package, attribute, child, local
from lit_llm.data.documents.parts import Part, broken, row, sections, tidy

_NOT_READ = {"del", "moveFrom", "pPr", "rPr", "instrText", "delText", "sdtPr", "tblPr", "trPr", "tcPr", "Fallback",
             "rt"}  # fmt: skip
_GIVES = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "\u2011", "ptab": "\t"}
_WINGDINGS = {0x6F: "☐", 0x71: "☐", 0xA8: "☐", 0x78: "☒", 0xFD: "☒", 0xFE: "☑", 0xFB: "✗", 0xFC: "✓", 0xE0: "→"}
"""Boxes of forms and ticks, by their codes in that font."""
_SYMBOL = dict(zip(
    map(ord, "abgdezhqiklmnxoprstufcywABGDEZHQIKLMNXOPRSTUFCYW\xa3\xb3\xb1\xb4\xb9\xb0\xae\xb7"),
    "αβγδεζηθικλμνξοπρστυφχψωΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ≤≥±×≠°→•", strict=True,
))  # fmt: skip
"""Greek letters and signs, by their codes in that font."""


def read_docx(data: bytes) -> tuple[list[Part], list[str]]:
    """Its parts, and what the user is to be told. Raises Unreadable."""
    blocks, told = docx_blocks(data, 0)
    return sections(blocks), told


def docx_blocks(data: bytes, depth: int) -> tuple[list[tuple[int, str]], list[str]]:
    """Its blocks with the level of their headings, and what the user is to be told. ``depth``: documents around."""
    package = Package(data)
    main = next((to for kind, to in package.relations("").values() if kind == "officeDocument"), "word/document.xml")
    root = package.xml(main)
    body = None if root is None else child(root, "body")
    if body is None:
        raise broken("no text in it")
    word = _Word(package, main, depth)
    return list(word.blocks(body)), word.told()


class _Style:
    def __init__(self, element: Any) -> None:
        name = child(element, "name")
        self.name = ((attribute(name, "val") or "") if name is not None else "").lower()
        based = child(element, "basedOn")
        self.based = attribute(based, "val") if based is not None else None
        self.properties = child(element, "pPr")
        vanish = child(element, "rPr", "vanish")
        self.hidden = None if vanish is None else _on(vanish)  # None: as the style says that it is based on


class _Word:
    def __init__(self, package: Package, main: str, depth: int) -> None:
        relations = package.relations(main)
        members = dict(relations.values())
        chunks = {name: to for name, (kind, to) in relations.items() if kind == "aFChunk"}
        self._chunks = Chunks(package, chunks, depth, docx_blocks)
        self._styles: dict[str, _Style] = {}
        self._hidden = False  # the paragraph's style hides what its runs do not show
        styles = package.xml(members.get("styles", "word/styles.xml"))
        for one in [] if styles is None else styles:
            if local(one) == "style":
                self._styles[attribute(one, "styleId") or ""] = _Style(one)
        self._numbering = Numbering(package.xml(members.get("numbering", "word/numbering.xml")))
        self._notes: dict[tuple[str, str], Any] = {}
        for kind in ("footnote", "endnote"):
            notes = package.xml(members.get(f"{kind}s", f"word/{kind}s.xml"))
            for one in [] if notes is None else notes:
                if local(one) == kind and attribute(one, "type") in (None, "normal"):
                    self._notes[kind, attribute(one, "id") or ""] = one
        self._noted = 0  # notes so far
        self._waiting: list[str] = []  # notes of this section, which are written at its end

    def blocks(self, body: Any) -> Iterator[tuple[int, str]]:
        return self._with_notes(self._blocks(body))

    def told(self) -> list[str]:
        return self._chunks.told()

    def _with_notes(self, blocks: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        for level, text in blocks:
            if level and self._waiting:
                own = f"[^{self._noted}]" in text  # a heading's own note stays behind
                notes, self._waiting = self._waiting[: -1 if own else None], self._waiting[-1:] if own else []
                yield from ((0, note) for note in notes)
            yield level, text
        yield from ((0, note) for note in self._waiting)

    def _blocks(self, parent: Any) -> Iterator[tuple[int, str]]:
        open_ones: list[Any] = []  # paragraphs whose ends are deleted: the next one goes on in them
        for one in parent:
            name = local(one)
            if name == "p" and _end_deleted(one):
                open_ones.append(one)
                continue
            if name == "p":
                yield from self._paragraph(one, open_ones)
                open_ones = []
                continue
            if open_ones and name not in _NOT_READ and next(one.iter("{*}p"), None) is not None:
                yield from self._paragraph(open_ones[-1], open_ones[:-1])
                open_ones = []
            if name == "tbl":
                yield 0, "\n".join(filter(None, map(row, self._rows(one))))
            elif name == "altChunk":
                yield from self._chunks.blocks(attribute(one, "id") or "")
            elif name not in _NOT_READ:
                yield from self._blocks(one)  # content controls, what is inserted, text boxes
        if open_ones:
            yield from self._paragraph(open_ones[-1], open_ones[:-1])

    def _rows(self, table: Any) -> Iterator[list[str]]:
        for one in table:
            if local(one) == "tr" and child(one, "trPr", "del") is not None:
                continue
            if local(one) == "tr":
                yield list(self._cells(one))
            elif local(one) in ("sdt", "sdtContent", "ins"):
                yield from self._rows(one)

    def _cells(self, parent: Any) -> Iterator[str]:
        for one in parent:
            if local(one) == "tc" and child(one, "tcPr", "cellDel") is not None:
                continue
            if local(one) == "tc":
                yield " ".join(text for _, text in self._blocks(one))
            elif local(one) in ("sdt", "sdtContent", "ins"):
                yield from self._cells(one)

    def _chain(self, name: str | None) -> Iterator[_Style]:
        seen: set[str] = set()
        while name and name in self._styles and name not in seen:
            seen.add(name)
            yield self._styles[name]
            name = self._styles[name].based

    def _paragraph(self, element: Any, before: list[Any]) -> Iterator[tuple[int, str]]:
        """A paragraph, with the text of those before it that go on in it."""
        properties = child(element, "pPr")
        style = child(properties, "pStyle") if properties is not None else None
        chain = list(self._chain(attribute(style, "val") if style is not None else None))
        if any(one.name.startswith("toc ") for one in chain):
            return
        own = [properties, *(one.properties for one in chain)]
        number = self._numbering.of([one for one in own if one is not None])
        boxes: list[Any] = []
        around, self._hidden = self._hidden, _hides(chain)
        text = tidy("".join(piece for one in (*before, element) for piece in self._text(one, boxes)))
        self._hidden = around
        level = self._level(own, chain)
        if text:
            yield (level, number.mark + text) if level else (0, number.indent + number.mark + text)
        for box in boxes:
            yield from self._blocks(box)

    def _level(self, own: list[Any], chain: list[_Style]) -> int:
        for properties in own:
            outline = child(properties, "outlineLvl") if properties is not None else None
            if outline is not None:
                value = attribute(outline, "val") or ""
                return int(value) + 1 if value.isdigit() and int(value) < 9 else 0
        for one in chain:
            kind, _, number = one.name.partition(" ")
            if kind == "heading" and number.isdigit():
                return int(number)
            if one.name == "title":
                return 1
        return 0

    def _text(self, element: Any, boxes: list[Any]) -> Iterator[str]:
        for one in element:
            name = local(one)
            if name == "t":
                yield one.text or ""
            elif name in _GIVES:
                yield _GIVES[name]
            elif name in ("footnoteReference", "endnoteReference"):
                yield self._note(name.removesuffix("Reference"), attribute(one, "id") or "")
            elif name == "txbxContent":
                boxes.append(one)
            elif name == "sym":
                yield _symbol(one)
            elif name == "r" and self._is_hidden(one):
                continue
            elif name and name not in _NOT_READ:
                yield from self._text(one, boxes)

    def _is_hidden(self, run: Any) -> bool:
        """Whether a run is not shown: by its own property, else by its style or its paragraph's."""
        own = child(run, "rPr", "vanish")
        if own is not None:
            return _on(own)
        style = child(run, "rPr", "rStyle")
        return _hides(self._chain(attribute(style, "val")) if style is not None else (), self._hidden)

    def _note(self, kind: str, number: str) -> str:
        note = self._notes.pop((kind, number), None)
        if note is None:
            return ""
        self._noted += 1
        mark = f"[^{self._noted}]"
        at = len(self._waiting)
        self._waiting.append("")
        self._waiting[at] = f"{mark}: {' '.join(text for _, text in self._blocks(note))}"
        return mark


def _end_deleted(paragraph: Any) -> bool:
    mark = child(paragraph, "pPr", "rPr")
    return any(child(mark, name) is not None for name in ("del", "moveFrom"))


def _symbol(element: Any) -> str:
    """A character of a font of symbols as a letter or sign; "" for what only decorates."""
    font, code = (attribute(element, "font") or "").lower(), attribute(element, "char") or ""
    known = {"symbol": _SYMBOL, "wingdings": _WINGDINGS}.get(font, {})
    return known.get(int(code, 16) & 0xFF, "") if re.fullmatch("[0-9A-Fa-f]{2,4}", code) else ""


def _hides(chain: Iterable[_Style], otherwise: bool = False) -> bool:
    """Whether a style, or the first one it is based on that says so, hides its text."""
    return next((one.hidden for one in chain if one.hidden is not None), otherwise)


def _on(switch: Any) -> bool:
    return switch is not None and attribute(switch, "val") not in ("0", "false", "off")

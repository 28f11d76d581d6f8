"""A tree of HTML or XHTML as blocks of text: headings, paragraphs, lists, tables, preformatted text. Scripts, styles
and what is hidden are left out. ``lxml`` parses it; nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree
from lxml import html as lxml_html

from lit_llm.data.documents.package import broken, local
from lit_llm.data.documents.parts import Unreadable, one_line, row

_SILENT = {"script", "style", "template", "noscript", "head", "svg", "math", "object", "iframe", "canvas", "audio",
           "video", "select", "button", "textarea", "input", "datalist", "rt", "rp"}  # fmt: skip
MENUS = frozenset(("nav", "header", "footer", "aside", "form", "menu", "dialog"))
"""Elements around a page's main text."""
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = {"p", "div", "section", "article", "main", "body", "html", "blockquote", "figure", "figcaption", "center",
           "address", "dl", "dt", "dd", "details", "summary", "fieldset", "legend", "hgroup", "caption", "doc",
           *MENUS}  # fmt: skip
_BREAK = "\x00"  # in text that is collected: a line end that the page means
_MAX_DEPTH = 400


def parse(text: str) -> Any:
    """The root element of a page. Raises Unreadable."""
    parser = lxml_html.HTMLParser(
        no_network=True, remove_comments=True, remove_pis=True, huge_tree=True, encoding="utf-8"
    )
    try:
        root = lxml_html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        if "empty" in str(error).lower():
            raise Unreadable("empty_text", "no text in it") from None
        raise broken(error) from None
    return root


def blocks(root: Any, without: frozenset[str] = frozenset()) -> Iterator[tuple[int, str]]:
    """The blocks of a tree in order: the level of a heading (0: none) and the text."""
    walker = _Walker(without)
    walker.walk(root, 0)
    walker.flush()
    return iter(walker.found)


class _Walker:
    def __init__(self, without: frozenset[str]) -> None:
        self._without = without
        self.found: list[tuple[int, str]] = []
        self._line: list[str] = []

    def flush(self, level: int = 0, before: str = "") -> None:
        lines = [one_line(line) for line in "".join(self._line).split(_BREAK)]
        text = " ".join(filter(None, lines)) if level else "\n".join(lines).strip()
        self._line = []
        if text:
            self.found.append((level, before + text))

    def walk(self, element: Any, depth: int) -> None:
        name = local(element).lower()
        if depth > _MAX_DEPTH:
            raise Unreadable("document_bomb", f"nested deeper than {_MAX_DEPTH} elements")
        if not name or name in _SILENT or name in self._without or _hidden(element):
            return
        if name in _HEADINGS:
            self.flush()
            self._inside(element, depth)
            self.flush(_HEADINGS[name])
        elif name in ("ul", "ol"):
            self.flush()
            self._list(element, depth, 0)
        elif name == "table":
            self.flush()
            self._table(element, depth)
        elif name == "pre":
            self.flush()
            text = "".join(element.itertext()).strip("\n")
            if text.strip():
                self.found.append((0, text))
        elif name in ("br", "hr"):
            self._line.append(_BREAK)
        elif name in _BLOCKS:
            self.flush()
            self._inside(element, depth)
            self.flush()
        else:
            self._inside(element, depth)

    def _inside(self, element: Any, depth: int) -> None:
        self._line.append(element.text or "")
        for one in element:
            self.walk(one, depth + 1)
            self._line.append(one.tail or "")

    def _list(self, element: Any, depth: int, level: int) -> None:
        start = element.get("start") or ""
        number = int(start) if re.fullmatch(r"\d{1,6}", start) else 1
        for one in element:
            if local(one).lower() in ("ul", "ol"):
                self._list(one, depth + 1, level + 1)
            elif local(one).lower() != "li":
                self.walk(one, depth + 1)
            else:
                mark = f"{number}. " if local(element).lower() == "ol" else "- "
                number += 1
                self._item(one, "  " * level + mark, depth + 1, level)

    def _item(self, item: Any, mark: str, depth: int, level: int) -> None:
        if depth > _MAX_DEPTH:
            raise Unreadable("document_bomb", f"nested deeper than {_MAX_DEPTH} elements")
        before = len(self.found)
        self._line.append(item.text or "")
        for one in item:
            if local(one).lower() in ("ul", "ol"):
                self.flush()
                self._mark(before, mark)
                self._list(one, depth + 1, level + 1)
                before, mark = len(self.found), "  " * level + "  "
            else:
                self.walk(one, depth + 1)
            self._line.append(one.tail or "")
        self.flush()
        self._mark(before, mark)

    def _mark(self, before: int, mark: str) -> None:
        """Puts the mark before what an item began with."""
        if len(self.found) > before:
            self.found[before] = (0, mark + self.found[before][1])

    def _table(self, table: Any, depth: int) -> None:
        """Rows as lines. A table of one column, or with tables in it, arranges a page: its cells are blocks."""
        rows = [one for one in table.iter() if local(one).lower() == "tr" and _of(one, "table") is table]
        cells = [[one for one in each if local(one).lower() in ("td", "th")] for each in rows]
        if max(map(len, cells), default=0) < 2 or any(local(one).lower() == "table" for one in table.iterdescendants()):
            for cell in (one for each in cells for one in each):
                self._inside(cell, depth + 1)
                self.flush()
            return
        caption = next((one for one in table if local(one).lower() == "caption"), None)
        if caption is not None:
            self.walk(caption, depth + 1)
        lines = [row(self._cell(cell, depth) for cell in each) for each in cells]
        if any(lines):
            self.found.append((0, "\n".join(filter(None, lines))))

    def _cell(self, cell: Any, depth: int) -> str:
        inner = _Walker(self._without)
        inner._inside(cell, depth + 1)
        inner.flush()
        return " ".join(text for _, text in inner.found)


def _of(element: Any, name: str) -> Any:
    return next((one for one in element.iterancestors() if local(one).lower() == name), None)


def _hidden(element: Any) -> bool:
    style = (element.get("style") or "").replace(" ", "").lower()
    return element.get("hidden") is not None or "display:none" in style or element.get("aria-hidden") == "true"

"""A tree of HTML or XHTML as blocks of text: headings, paragraphs, lists, tables, preformatted text. Scripts, styles
and what is hidden are left out. ``lxml`` parses it; nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from lxml import etree
from lxml import html as lxml_html

from lit_llm.data.documents.docx_numbering import written
from lit_llm.data.documents.package import local
from lit_llm.data.documents.parts import Unreadable, broken, one_line, row

_SILENT = {"script", "style", "template", "noscript", "noframes", "head", "svg", "object", "iframe", "canvas", "audio",
           "video", "select", "button", "textarea", "input", "datalist", "rt", "rp"}  # fmt: skip
_OPENS = {"summary", *(f"h{level}" for level in range(1, 7))}  # a button in one opens what is below: it is its text
MENUS = frozenset(("nav", "header", "footer", "aside", "form", "menu", "dialog"))
"""Elements around a page's main text. Within it a header, a footer and an aside are of the text, and a form may be."""
_MAIN = {"main", "article"}
_OF_MAIN = {"header", "footer", "aside", "form"}
_KINDS = {"a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman"}  # of an ol's numbers
_EXPONENT = re.compile(r"[-\u2212]?\d{1,3}")
_NUMBER_OR_UNIT = re.compile(r"\d$|(?<![A-Za-z])[kcdm]?m$")
_MENU_WORDS = 4  # of a link, as a rule: longer ones are sources
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


def blocks(root: Any, without: frozenset[str] = frozenset(), menus: bool = True) -> Iterator[tuple[int, str]]:
    """The blocks of a tree in order: the level of a heading (0: none) and the text.

    Args:
        without: elements that are left out.
        menus: False leaves out short links in a row, with next to nothing else in their blocks, as menus are.
    """
    walker = _Walker(without)
    walker.walk(root, 0)
    walker.flush()
    if menus:
        return iter(walker.found)
    gone = _menus(walker.found, walker.linked)
    return (one for number, one in enumerate(walker.found) if number not in gone)


def _menus(found: list[tuple[int, str]], linked: dict[int, list[str]]) -> set[int]:
    """The places of blocks that are links, in a row of two links or more with few words each."""
    gone: set[int] = set()
    run: list[int] = []
    for number in range(len(found) + 1):
        if number < len(found) and number in linked and not found[number][0]:
            size = sum(1 for letter in found[number][1] if letter.isalnum())
            if sum(1 for link in linked[number] for letter in link if letter.isalnum()) >= 0.7 * size:
                run.append(number)
                continue
        links = [link for one in run for link in linked[one]]
        if len(links) > 1 and sum(len(link.split()) for link in links) <= _MENU_WORDS * len(links):
            gone.update(run)
        run = []
    return gone


class _Walker:
    def __init__(self, without: frozenset[str]) -> None:
        self._without = without
        self.found: list[tuple[int, str]] = []
        self.linked: dict[int, list[str]] = {}  # of a block's place: the texts of its links
        self._line: list[str] = []
        self._links: list[str] = []
        self._in_link = 0
        self._opens = 0  # headings and summaries around

    def flush(self, level: int = 0, before: str = "") -> None:
        lines = [one_line(line) for line in "".join(self._line).split(_BREAK)]
        text = " ".join(filter(None, lines)) if level else "\n".join(lines).strip()
        links, self._line, self._links = list(filter(str.strip, self._links)), [], []
        if text:
            if links:
                self.linked[len(self.found)] = links
            self.found.append((level, before + text))

    def _say(self, text: str | None) -> None:
        if text:
            self._line.append(text)
            if self._in_link:
                self._links[-1:] = ["".join([*self._links[-1:], text])]

    def walk(self, element: Any, depth: int) -> None:
        name = local(element).lower()
        if depth > _MAX_DEPTH:
            raise Unreadable("document_bomb", f"nested deeper than {_MAX_DEPTH} elements")
        silent = name in _SILENT and not (name == "button" and self._opens)
        if not name or silent or name in self._without or _hidden(element):
            return
        if name in _MAIN and self._without & _OF_MAIN:
            around, self._without = self._without, self._without - _OF_MAIN
            self.walk(element, depth)
            self._without = around
            return
        if name in _OPENS:
            self.flush()
            self._opens += 1
            self._inside(element, depth)
            self._opens -= 1
            self.flush(_HEADINGS.get(name, 0))
        elif name == "math":
            self._say(_formula(element))
        elif name == "li" and depth:  # without a list around it, as old pages have it
            self.flush()
            self._item(element, "- ", depth, 0)
        elif name in ("ul", "ol"):
            self.flush()
            self._list(element, depth, 0)
        elif name == "table":
            self.flush()
            self._table(element, depth)
        elif name == "pre":
            self.flush()
            text = "".join(_texts(element, _SILENT)).strip("\n")
            if text.strip():
                self.found.append((0, text))
        elif name in ("br", "hr"):
            self._line.append(_BREAK)
        elif name in _BLOCKS:
            self.flush()
            self._inside(element, depth)
            self.flush()
        elif name == "a" and element.get("href"):
            self._links.append("")
            self._in_link += 1
            self._inside(element, depth)
            self._in_link -= 1
        elif name == "sup":
            self._raised(element, depth)
        else:
            self._inside(element, depth)

    def _inside(self, element: Any, depth: int) -> None:
        self._say(element.text)
        for one in element:
            self.walk(one, depth + 1)
            self._say(one.tail)

    def _raised(self, element: Any, depth: int) -> None:
        """An exponent behind a number or a unit as ^3, a note behind a number in brackets: 10 and 3 are not 103."""
        text = one_line("".join(element.itertext()))
        before = "".join(self._line[-3:])
        note = any(local(one).lower() == "a" for one in element.iter())
        if _EXPONENT.fullmatch(text) and _NUMBER_OR_UNIT.search(before):
            self._say(f"[{text}]" if note else f"^{text}")
        else:
            self._inside(element, depth)

    def _list(self, element: Any, depth: int, level: int) -> None:
        ordered = local(element).lower() == "ol"
        number = _whole(element.get("start"), 1)
        kind = _KINDS.get(element.get("type") or "", "decimal")
        for one in element:
            if local(one).lower() in ("ul", "ol"):
                self._list(one, depth + 1, level + 1)
            elif local(one).lower() != "li":
                self.walk(one, depth + 1)
            else:
                number = _whole(one.get("value"), number)
                mark = f"{written(kind, number)}. " if ordered else "- "
                number += 1
                self._item(one, "  " * level + mark, depth + 1, level)

    def _item(self, item: Any, mark: str, depth: int, level: int) -> None:
        if depth > _MAX_DEPTH:
            raise Unreadable("document_bomb", f"nested deeper than {_MAX_DEPTH} elements")
        before = len(self.found)
        self._say(item.text)
        for one in item:
            if local(one).lower() in ("ul", "ol"):
                self.flush()
                self._mark(before, mark)
                self._list(one, depth + 1, level + 1)
                before, mark = len(self.found), "  " * level + "  "
            else:
                self.walk(one, depth + 1)
            self._say(one.tail)
        self.flush()
        self._mark(before, mark)

    def _mark(self, before: int, mark: str) -> None:
        """Puts the mark before what an item began with."""
        if len(self.found) > before:
            self.found[before] = (0, mark + self.found[before][1])

    def _table(self, table: Any, depth: int) -> None:
        """Rows as lines. A table of one column, or with tables in it, arranges a page: its cells are blocks, and so are
        those of a row with several paragraphs or a heading in a cell."""
        rows = [one for one in table.iter() if local(one).lower() == "tr" and _of(one, "table") is table]
        cells = [[one for one in each if local(one).lower() in ("td", "th")] for each in rows]
        if max(map(len, cells), default=0) < 2 or any(local(one).lower() == "table" for one in table.iterdescendants()):
            for each in cells:
                self._apart(each, depth)
            return
        caption = next((one for one in table if local(one).lower() == "caption"), None)
        if caption is not None:
            self.walk(caption, depth + 1)
        lines: list[str] = []
        for each in cells:
            if any(map(_arranged, each)):
                self._rows(lines)
                lines = []
                self._apart(each, depth)
            else:
                lines.append(row(self._cell(cell, depth) for cell in each))
        self._rows(lines)

    def _rows(self, lines: list[str]) -> None:
        if any(lines):
            self.found.append((0, "\n".join(filter(None, lines))))

    def _apart(self, cells: list[Any], depth: int) -> None:
        """Each cell as blocks of its own."""
        for cell in cells:
            self._inside(cell, depth + 1)
            self.flush()

    def _cell(self, cell: Any, depth: int) -> str:
        inner = _Walker(self._without)
        inner._inside(cell, depth + 1)
        inner.flush()
        return " ".join(text for _, text in inner.found)


def _texts(element: Any, without: Collection[str]) -> Iterator[str]:
    """The text of an element as it stands in the page, with its own line ends."""
    yield element.text or ""
    waiting: list[Any] = [*reversed(element)]  # elements and the texts behind them: a page may be nested deep
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
            continue
        waiting.append(one.tail or "")
        name = local(one).lower()
        if name == "br":
            yield "\n"
        elif name and name not in without:
            yield one.text or ""
            waiting += reversed(one)


def _formula(math: Any) -> str:
    """A formula of MathML as TeX, where the page has that beside it; else its letters one after another."""
    found = (one.text for one in math.iter("annotation") if "tex" in (one.get("encoding") or "").lower())
    tex = next(found, None) or math.get("alttext")
    return f"${one_line(tex)}$" if tex else one_line("".join(_texts(math, ("annotation", "annotation-xml"))))


def _arranged(cell: Any) -> bool:
    """Whether a cell is a piece of a page: it has a heading, or several paragraphs with text."""
    names = [local(one).lower() for one in cell.iter() if local(one).lower() != "p" or "".join(one.itertext()).strip()]
    return names.count("p") > 1 or any(name in _HEADINGS for name in names)


def _whole(text: str | None, otherwise: int) -> int:
    return int(text) if text and re.fullmatch(r"-?\d{1,6}", text.strip()) else otherwise


def _of(element: Any, name: str) -> Any:
    return next((one for one in element.iterancestors() if local(one).lower() == name), None)


def _hidden(element: Any) -> bool:
    style = (element.get("style") or "").replace(" ", "").lower()
    return element.get("hidden") is not None or "display:none" in style or element.get("aria-hidden") == "true"

"""Rich Text Format (RTF 1.9): paragraphs, headings, tables, footnotes, in the code page of each font.

A byte beyond ASCII (``\\'hh``) is in the font's code page (``\\fcharset``), else in the document's (``\\ansicpg``);
``\\uN`` is a UTF-16 unit, followed by ``\\ucN`` bytes for readers that do not know it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from lit_llm.data.documents.parts import Part, Unreadable, row, sections, tidy

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})?[ ]?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+|([^\\{}\r\n]+)|\\"
)
_CHARSETS = {0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 134: "gbk", 136: "big5", 161: "cp1253",
             162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251", 222: "cp874",
             238: "cp1250"}  # fmt: skip
_SPECIAL = {"par": "\n\n", "sect": "\n\n", "page": "\n\n", "line": "\n", "tab": "\t", "emdash": "\u2014",
            "endash": "\u2013", "emspace": " ", "enspace": " ", "qmspace": " ", "bullet": "\u2022",
            "lquote": "\u2018", "rquote": "\u2019", "ldblquote": "\u201c", "rdblquote": "\u201d"}  # fmt: skip
_SILENT = {"stylesheet", "colortbl", "info", "pict", "object", "header", "headerl", "headerr", "headerf", "footer",
           "footerl", "footerr", "footerf", "ftnsep", "ftnsepc", "aftnsep", "aftnsepc", "fldinst", "themedata",
           "listtable", "listoverridetable", "rsidtbl", "generator", "datastore", "xmlnstbl", "latentstyles",
           "bkmkstart", "bkmkend", "atnid", "atnauthor", "annotation", "atntime", "atndate", "filetbl", "revtbl",
           "nonshppict", "template", "userprops", "xe", "tc", "txe", "panose", "falt", "mmathPr", "pgptbl", "sp",
           "shprslt"}  # fmt: skip
_OPEN = {"shpinst", "shptxt", "listtext", "pntext", "ud"}  # destinations behind \* that are text all the same
_MAX_DEPTH = 500


@dataclass(frozen=True, slots=True)
class _State:
    """What a group sets, and its end restores."""

    silent: bool = False
    fonts: bool = False
    note: bool = False
    font: int = 0
    skip: int = 1  # bytes to skip behind a \u
    hidden: bool = False
    deleted: bool = False  # by a change that is not yet accepted
    mark: bool = False  # the text of a list's item number
    box: int = 0  # text boxes around
    twice: bool = False  # its text comes once more, in Unicode


def read_rtf(data: bytes) -> list[Part]:
    """Raises Unreadable."""
    return sections(rtf_blocks(data))


def rtf_blocks(data: bytes) -> list[tuple[int, str]]:
    """Its blocks with the level of their headings. Raises Unreadable."""
    if not data.lstrip().startswith(b"{\\rtf"):
        raise Unreadable("broken_document", "no RTF: it does not begin with {\\rtf")
    reader = _Reader()
    reader.read(data)
    return reader.blocks


class _Reader:
    def __init__(self) -> None:
        self.blocks: list[tuple[int, str]] = []
        self._state, self._stack = _State(), list[_State]()
        self._page, self._charsets, self._default_font = "cp1252", dict[int, str](), 0
        self._bytes = bytearray()
        self._encoding = "cp1252"
        self._to_skip, self._high, self._star = 0, "", False
        self._text: list[str] = []
        self._level, self._in_table = 0, False
        self._cells: list[str] = []
        self._rows: list[str] = []
        self._note: list[str] = []
        self._notes: list[str] = []
        self._noted = 0
        self._around: list[_Around] = []  # the paragraphs that text boxes stand in
        self._boxes: list[tuple[int, str]] = []  # what is in them, which comes behind these

    def read(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            found = _TOKEN.match(data, at)
            assert found is not None, "every byte is some token"
            at = found.end()
            word, number, byte, symbol, brace, plain = found.groups()
            if word == b"bin" and number:
                at += max(int(number), 0)
            elif word is not None:
                self._control(word.decode("ascii"), int(number) if number else None)
            elif byte is not None:
                self._put_byte(bytes((int(byte, 16),)))
            elif symbol is not None:
                self._symbol(symbol)
            elif brace is not None:
                self._group(brace)
            elif plain is not None:
                self._put_byte(plain)
        self._end_paragraph()
        self._end_table()
        self._end_section()

    def _group(self, brace: bytes) -> None:
        self._flush_bytes()
        self._to_skip, self._star = 0, False
        if brace == b"{":
            if len(self._stack) > _MAX_DEPTH:
                raise Unreadable("document_bomb", f"nested deeper than {_MAX_DEPTH} groups")
            self._stack.append(self._state)
        elif self._stack:
            before, self._state = self._state, self._stack.pop()
            if before.note and not self._state.note:
                self._end_note()
            if before.box > self._state.box:
                self._end_box()

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self._star = True
        elif symbol in b"\\{}":
            self._put_byte(symbol)
        elif symbol in b"~":
            self._put("\u00a0")
        elif symbol == b"_":
            self._put("\u2011")
        elif symbol in (b"\n", b"\r"):
            self._control("par", None)

    def _control(self, word: str, number: int | None) -> None:
        self._flush_bytes()
        starred, self._star = self._star, False
        if word == "u" and number is not None:
            self._unicode(number % 65536)
            return
        if word in _SILENT or (starred and word not in _OPEN and word != "footnote"):
            self._state = replace(self._state, silent=True)
        elif word == "upr" and not self._state.silent:
            self._state = replace(self._state, silent=True, twice=True)
        elif word == "ud" and self._state.twice:
            self._state = replace(self._state, silent=False, twice=False)
        elif word == "shptxt" and not self._state.silent:
            self._begin_box()
        elif word == "fonttbl":
            self._state = replace(self._state, fonts=True)
        elif word == "footnote":
            self._begin_note()
        elif word in ("listtext", "pntext"):
            self._state = replace(self._state, mark=True)
        elif word == "ansicpg" and number:
            self._page = self._encoding = _codec(number) or self._page
        elif word in ("mac", "pc", "pca"):
            self._page = self._encoding = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}[word]
        elif word == "deff" and number is not None:
            self._default_font = number
            self._state = replace(self._state, font=number)
        elif word == "f" and number is not None:
            self._state = replace(self._state, font=number)
        elif word == "fcharset" and number is not None and self._state.fonts:
            self._charsets[self._state.font] = _CHARSETS.get(number, "") if number > 1 else ""
        elif word == "uc" and number is not None:
            self._state = replace(self._state, skip=min(max(number, 0), 8))
        elif word == "v":
            self._state = replace(self._state, hidden=number != 0)
        elif word == "deleted":
            self._state = replace(self._state, deleted=number != 0)
        elif word == "plain":
            self._state = replace(self._state, hidden=False, deleted=False, font=self._default_font)
        else:
            self._layout(word, number)

    def _layout(self, word: str, number: int | None) -> None:
        if self._state.silent or self._state.fonts:
            return
        if word in _SPECIAL and (self._state.hidden or self._state.deleted):
            return  # the end of a paragraph too: the next one goes on in it
        if word == "pard":
            self._level, self._in_table = 0, False
        elif word == "outlinelevel" and number is not None and 0 <= number < 9:
            self._level = number + 1
        elif word == "intbl":
            self._in_table = True
        elif self._state.note and word in _SPECIAL:
            self._put(" " if "\n" in _SPECIAL[word] else _SPECIAL[word])
        elif word in ("cell", "nestcell"):
            self._cells.append(tidy("".join(self._text)))
            self._text = []
        elif word in ("row", "nestrow"):
            self._rows.append(row(self._cells))
            self._cells = []
        elif word in ("par", "sect", "page") and self._in_table:
            self._put("\n")
        elif word in ("par", "sect", "page"):
            self._end_paragraph()
        elif word in _SPECIAL:
            self._put(_SPECIAL[word])

    def _put_byte(self, data: bytes) -> None:
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        if not data or self._state.silent or self._state.fonts:
            return
        encoding = self._charsets.get(self._state.font, "") or self._page
        if encoding != self._encoding:
            self._flush_bytes()
            self._encoding = encoding
        self._bytes += data

    def _flush_bytes(self) -> None:
        if self._bytes:
            text, self._bytes = self._bytes.decode(self._encoding, "replace"), bytearray()
            self._put(text)

    def _unicode(self, unit: int) -> None:
        self._to_skip = self._state.skip
        if 0xD800 <= unit < 0xDC00:
            self._high = chr(unit)
            return
        text = self._high + chr(unit)
        self._high = ""
        self._put(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore"))

    def _put(self, text: str) -> None:
        self._flush_bytes()
        state = self._state
        if not (state.silent or state.fonts or state.hidden or state.deleted):
            if self._state.mark:
                text = "- " if text in ("\u2022", "\u00b7", "\uf0b7", "o", "\u25aa", "\uf0a7") else text
                text = " " if text == "\t" and not "".join(self._text).endswith(" ") else text.replace("\t", "")
            (self._note if self._state.note else self._text).append(text)

    def _begin_note(self) -> None:
        if self._state.silent or self._state.hidden or self._state.deleted:
            self._state = replace(self._state, silent=True)
            return
        self._noted += 1
        self._text.append(f"[^{self._noted}]")
        self._state = replace(self._state, note=True)

    def _end_note(self) -> None:
        self._notes.append(f"[^{self._noted}]: {tidy(''.join(self._note))}")
        self._note = []

    def _begin_box(self) -> None:
        self._around.append(_Around(self._text, self._level, self._in_table, self._cells, self._rows))
        self._text, self._cells, self._rows = [], [], []
        self._level, self._in_table = 0, False
        self._state = replace(self._state, box=self._state.box + 1)

    def _end_box(self) -> None:
        self._end_paragraph()
        self._end_table()
        around = self._around.pop()
        self._text, self._level, self._in_table, self._cells, self._rows = (
            around.text, around.level, around.in_table, around.cells, around.rows
        )  # fmt: skip

    def _say(self, level: int, text: str) -> None:
        (self._boxes if self._around else self.blocks).append((level, text))

    def _end_paragraph(self) -> None:
        self._flush_bytes()
        text, self._text = tidy("".join(self._text)), []
        if text:
            self._end_table()
            if self._level and not self._around:
                self._end_section()
            self._say(self._level, text)
        self._tell_boxes()

    def _end_table(self) -> None:
        lines, self._rows = [line for line in self._rows if line], []
        if lines:
            self._say(0, "\n".join(lines))
            self._tell_boxes()

    def _tell_boxes(self) -> None:
        if not (self._around or self._rows or self._cells):
            self.blocks += self._boxes
            self._boxes = []

    def _end_section(self) -> None:
        self.blocks += [(0, note) for note in self._notes]
        self._notes = []


@dataclass(frozen=True, slots=True)
class _Around:
    """What is read so far of where a text box stands."""

    text: list[str]
    level: int
    in_table: bool
    cells: list[str]
    rows: list[str]


def _codec(page: int) -> str | None:
    name = {65001: "utf-8", 10000: "mac_roman", 936: "gbk", 1361: "johab"}.get(page, f"cp{page}")
    try:
        b"a".decode(name)
    except LookupError:
        return None
    return name

"""Rows of CSV and TSV files: the first row names the columns, every cell is a text, an empty one says nothing.

As RFC 4180 has it: a cell that holds the delimiter, a line end or a quote stands in quotes, and a quote in it is
written twice. The delimiter of a .csv is the one that gives its first rows one number of cells (, ; tab or |).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from lit_llm.data.charsets import AUTO, code_page, wide
from lit_llm.data.encodings import no_text, undecodable
from lit_llm.data.row_errors import RowError
from lit_llm.data.streams import first_bytes, open_lines, whole_lines
from lit_llm.runtime.counted import counted

TABLES = (".csv", ".tsv", ".tab")
DELIMITERS = ",;\t|"
SAMPLED_BYTES = 4096  # that tell UTF-16
SAMPLED = 20  # rows that the delimiter is told from
MAX_CELL = 16 * 2**20  # characters: a longer cell is a quote that nobody closed
MAX_COLUMNS = 4096
_SAYS = re.compile("sep=(.)\r?\n?", re.IGNORECASE)
_UNNAMED = re.compile("(unnamed: ?0)?", re.IGNORECASE)
_NAMES = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}


def read_table(lines: Lines, tabs: bool) -> Iterator[tuple[int, dict[str, str]] | RowError]:
    """(line where the row begins, its cells by column), an empty cell too; what is no row as a RowError in its place.

    Args:
        tabs: the cells are divided by tabs; else the delimiter is found.

    Raises RowError where the file as a whole cannot be read: no header, two columns of one name, a bad encoding.
    """
    file, first = lines.file, _first_lines(lines)
    said = _SAYS.fullmatch(first[0]) if first else None  # Excel's own line
    delimiter = "\t" if tabs else said[1] if said else _delimiter(first)
    csv.field_size_limit(MAX_CELL)
    lines.again(first[1:] if said else first, 2 if said else 1)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        before = lines.number
        try:
            cells = next(rows, None)
        except RowError as bad:
            if names is None:
                raise
            yield bad
            continue
        except csv.Error as error:
            fault = _malformed(f"{file}:{before + 1}", str(error), lines.number - before)
            if names is None or "limit" in str(error):
                raise fault from None
            yield fault
            continue
        if cells is None:
            break
        where = f"{file}:{before + 1}"
        if not any(cell.strip() for cell in cells):  # a blank line, or what spreadsheets write below the last row
            continue
        if names is None:
            names = _columns(cells, where)
        else:
            yield _row(names, cells, where, before + 1, delimiter)
    if names is None:
        raise RowError("empty_file", f"{file}: no line; the first row of a table names its columns")


def _row(
    names: Sequence[str], cells: Sequence[str], where: str, line: int, delimiter: str
) -> tuple[int, dict[str, str]] | RowError:
    if len(cells) != len(names):
        return RowError(
            "wrong_cells",
            f"{where}: {counted(len(cells), 'cell')}, and the header names {counted(len(names), 'column')}; a cell "
            f"that holds {_NAMES.get(delimiter, repr(delimiter))} or a line end stands in quotes, with each quote in "
            "it twice",
        )
    found = dict(zip(names, cells, strict=True))
    if found.pop("", "").strip():
        return RowError("unnamed_column", f"{where}: a cell in a column that the header gives no name; name it")
    return line, found


def _columns(cells: Sequence[str], where: str) -> list[str]:
    """The header's names. Of a first column without one, which holds what pandas numbers rows by, ``index``."""
    names = [cell.strip() for cell in cells]
    if len(names) > MAX_COLUMNS:
        raise RowError("wrong_cells", f"{where}: a header of {len(names):,} columns; at most {MAX_COLUMNS:,}")
    if len(names) > 1 and _UNNAMED.fullmatch(names[0]) and "index" not in names:
        names[0] = "index"
    for name in names:
        if name and names.count(name) > 1:
            raise RowError("duplicate_key", f"{where}: the header names the column {name[:40]!r} twice; leave one")
    if not any(names):
        raise RowError("empty_file", f"{where}: no column has a name; the first row of a table names its columns")
    return names


def _malformed(where: str, said: str, lines: int) -> RowError:
    """What the csv module says, in the words of a table."""
    quotes = "a cell that begins with a quote ends with one, and each quote within it is written twice"
    if "limit" in said:
        what = f"a cell beyond {MAX_CELL >> 20} million characters: a quote that is never closed; {quotes}"
        return RowError("cell_too_long", f"{where}: {what}; nothing behind it is read")
    if "unexpected end" in said:
        left = counted(lines, "line")
        return RowError(
            "malformed_table", f"{where}: a quote in this row is never closed ({left} to the end); {quotes}"
        )
    if "new-line" in said:
        return RowError(
            "malformed_table", f"{where}: a line end of old Macs (\\r) outside of quotes; save the table with \\n"
        )
    return RowError("malformed_table", f"{where}: not CSV ({said}); {quotes}")


def _first_lines(lines: Lines) -> list[str]:
    """Lines for the delimiter, with few characters; what is wrong with them is told when they are read as rows."""
    found: list[str] = []
    try:
        for line in islice(lines, 4 * SAMPLED):
            found.append(line)
            if sum(map(len, found)) > 2**18:
                break
    except RowError as bad:
        lines.fault = bad
    return found


def _delimiter(lines: Sequence[str]) -> str:
    """That which gives most of the first rows as many cells as the header, and more than one; a comma where none does.

    Of several the one with more cells, then the first of ``DELIMITERS``.
    """
    found, best = ",", (0.0, 0)
    for candidate in DELIMITERS:
        rows = _rows_of(lines, candidate)
        if not rows or len(rows[0]) < 2:
            continue
        of_one_length = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        if (of_one_length, len(rows[0])) > best:
            found, best = candidate, (of_one_length, len(rows[0]))
    return found


def _rows_of(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        for row in islice(csv.reader(lines, delimiter=delimiter), SAMPLED):
            if row:
                rows.append(row)
    except csv.Error:
        pass
    return rows


class Lines:
    """Lines with their ends, decoded; ``number`` is that of the last one given. It goes on behind a RowError.

    Args:
        encoding: by its name in Python's ``codecs``, or ``auto``: UTF-8, and where the first line beyond ASCII is none,
            what the file is found to be in. ``found``: that, "" as long as it is UTF-8.
    """

    def __init__(self, file: str, encoding: str) -> None:
        self.file, self.number, self.found = file, 0, ""
        if encoding == AUTO:
            self.found = wide(first_bytes(file, SAMPLED_BYTES)) or ""
        self._open = encoding == AUTO and not self.found  # nothing says yet what it is in
        self.encoding = self.found or ("utf-8" if encoding == AUTO else encoding)
        self.fault: RowError | None = None  # met when looking ahead
        self._lines: Iterator[Any] = self._raw()
        self._ahead: Iterator[str] = iter(())

    def __iter__(self) -> Lines:
        return self

    def again(self, lines: Sequence[str], number: int) -> None:
        """Gives these lines once more, of which the first is the file's ``number``, and what is wrong behind them."""
        self._ahead, self.number = iter(lines), number - 1

    def __next__(self) -> str:
        ahead = next(self._ahead, None)
        if ahead is not None:
            self.number += 1
            return ahead
        if self.fault is not None:
            fault, self.fault = self.fault, None
            self.number += 1
            raise fault
        line = next(self._lines)
        self.number += 1
        if isinstance(line, str):
            return line
        if isinstance(line, RowError):
            raise line
        if self.number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        text = self._decoded(line)
        if (refused := no_text(f"{self.file}:{self.number}", text)) is not None:
            raise refused
        return text

    def _decoded(self, line: bytes) -> str:
        try:
            text: str = line.decode(self.encoding)
        except UnicodeDecodeError as error:
            page = code_page(one for one in open_lines(self.file) if isinstance(one, bytes)) if self._open else None
            if page is None:
                raise undecodable(f"{self.file}:{self.number}", line, error, self.encoding) from None
            self.encoding = self.found = page  # every line before is ASCII, which it is in all of these pages
            text = line.decode(page)
        self._open = self._open and text.isascii()
        return text

    def _raw(self) -> Iterator[bytes | str | RowError]:
        """Bytes of each line, or texts where the encoding has other bytes for a line's end than ASCII."""
        parts = whole_lines(self.file, self.encoding)
        if parts is None:
            yield from open_lines(self.file, ends=True)
        else:
            yield from chain((part + "\n" for part in parts[:-1]), parts[-1:])

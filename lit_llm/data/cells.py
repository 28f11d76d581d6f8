"""What the cells of a table mean: texts, and JSON where the row's format needs a list, a number or true and false.

In CSV all is text. ``completions`` of a ranking are a list all the same: its cell is read as JSON, and refused by name
where it is none. A text that looks like a number stays a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lit_llm.data.file_rows import Row, extension
from lit_llm.data.formats import FORMATS, Format, Kind, Parse
from lit_llm.data.json_rows import JsonReader
from lit_llm.data.row_errors import RowError
from lit_llm.data.tables import TABLES

LISTS = {
    "messages": '[{"role": "user", "content": "Hi"}, ...]',
    "conversations": '[{"from": "human", "value": "Hi"}, ...]',
    "completions": '["The tenant.", "Nobody."]',
    "ranking": "[1, 2]",
    "ranks": "[1, 2]",
    "history": '[["Hi", "Hello."]]',
    "flags": '[{"kind": "rude"}]',
}
"""Keys that hold a list or an object, and what their cell looks like."""
YES_OR_NO = ("label", "simulated", "all_bad", "train", "loss", "training")
NUMBERS = ("weight", "margin")
MESSAGES = ("prompt", "completion", "chosen", "rejected")
"""Texts, or lists of messages."""
_WORDS = {"true": True, "1": True, "false": False, "0": False}
_SCORE = re.compile(r"(?:.*[-_.])?(?:scores?|ratings?|rank|gold)(?:[-_.].*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def with_cells(rows: Iterable[Row | RowError], kind: Kind, parse: Format | Parse | None) -> Iterator[Row | RowError]:
    """The rows, those of tables with the values that their format reads; a function of the user's gets the texts."""
    for row in rows:
        if isinstance(row, RowError) or isinstance(row.value, str) or extension(row.file) not in TABLES:
            yield row
            continue
        try:
            yield row.holding(_meant(row.value, kind, parse, row.where))
        except RowError as bad:
            yield bad


def _meant(cells: Mapping[str, str], kind: Kind, parse: Format | Parse | None, where: str) -> dict[str, Any]:
    """An empty cell is no key, unless without it the row would be of no format: then its message names the cell."""
    filled: dict[str, Any] = {key: cell for key, cell in cells.items() if cell.strip()}
    if parse is not None and not isinstance(parse, Format):
        return filled
    form = parse or _of_keys(filled, kind)
    if form is None or not form.fits(filled):
        form = form if parse else _of_keys(cells, kind)
        wanted = {key for keys in form.keys for key in keys} if form else set()
        filled = {key: cell for key, cell in cells.items() if cell.strip() or key in wanted}
    read = form.read(filled) if form is not None and form.fits(filled) else ()
    judged = kind in ("comparisons", "labels")
    for key, cell in filled.items():
        if key in read and (read_cell := _READERS.get(key)):
            filled[key] = read_cell(cell, key, where)
        elif judged and key not in read and _SCORE.fullmatch(key) and _NUMBER.fullmatch(cell.strip()):
            filled[key] = float(cell)
    return filled


def _of_keys(value: Mapping[str, Any], kind: Kind) -> Format | None:
    return next((form for form in FORMATS if form.kind == kind and form.fits(value)), None)


def _list(cell: str, key: str, where: str) -> Any:
    if not cell.strip():
        return cell
    try:
        value = _json(cell)
    except (ValueError, RecursionError) as error:
        said = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        python = "; this is Python's writing: json.dumps writes JSON" if cell.lstrip()[:2] in ("[{", "['") else ""
        raise _refused(cell, key, f"JSON is needed, such as {LISTS[key]} ({said}{python})", where) from None
    if not isinstance(value, list | dict):
        raise _refused(cell, key, f"a list in JSON is needed, such as {LISTS[key]}", where)
    return value


def _yes_or_no(cell: str, key: str, where: str) -> Any:
    if not cell.strip():
        return cell
    if cell.strip().lower() not in _WORDS:
        raise _refused(cell, key, "true or false is needed", where)
    return _WORDS[cell.strip().lower()]


def _number(cell: str, key: str, where: str) -> Any:
    if not _NUMBER.fullmatch(cell.strip()):
        raise _refused(cell, key, "a number is needed, such as 0.5", where)
    value = float(cell)
    return int(value) if value.is_integer() else value


def _text_or_messages(cell: str, key: str, where: str) -> Any:  # noqa: ARG001  (the readers' signature)
    if cell.lstrip()[:1] != "[":
        return cell
    try:
        value = _json(cell)
    except (ValueError, RecursionError):
        return cell
    turns = isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    return (
        value if turns and all({"role", "content"} <= {*one} or {"from", "value"} <= {*one} for one in value) else cell
    )


_READERS: dict[str, Callable[[str, str, str], Any]] = {
    **dict.fromkeys(LISTS, _list),
    **dict.fromkeys(YES_OR_NO, _yes_or_no),
    **dict.fromkeys(NUMBERS, _number),
    **dict.fromkeys(MESSAGES, _text_or_messages),
}


def _json(cell: str) -> Any:
    """JSON; ValueError for none, and for an object with a key twice."""
    value, twice = JsonReader().read(cell)
    if twice:
        raise ValueError("an object has a key twice")
    return value


def _refused(cell: str, key: str, needed: str, where: str) -> RowError:
    return RowError("malformed_cell", f"{where}: '{key}' is {cell.strip()[:40]!r}; {needed}")

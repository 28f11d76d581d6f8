"""Rows of JSON: a line each (.jsonl), or a list in one file (.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypeAlias

from lit_llm.data import row_keys
from lit_llm.data.encodings import no_text, undecodable
from lit_llm.data.row_errors import RowError, in_json
from lit_llm.data.streams import Part, first_bytes, open_lines, read_bytes, whole_lines

_Found: TypeAlias = tuple[int, dict[str, Any]] | RowError
"""The number of a line or item, from 1, and its object."""


def read_lines(file: str, encoding: str, part: Part | None = None) -> Iterator[_Found]:
    """(line, object) of a .jsonl, or of some of its lines; what is no row as a RowError in its place."""
    lines, encoding = (open_lines(file, part=part), encoding) if part else _lines(file, encoding)
    reader = JsonReader()
    for number, line in enumerate(lines, start=part.line if part else 1):
        if isinstance(line, RowError):
            yield line
            continue
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield _parse_line(line, f"{file}:{number}", number, encoding, reader)


def _lines(file: str, encoding: str) -> tuple[Iterator[bytes | RowError], str]:
    """Lines and their encoding, which is UTF-8 where the file's has other bytes for a line's end than ASCII."""
    whole = whole_lines(file, encoding)
    if whole is None:
        _refuse_wide(file, encoding)
        return open_lines(file), encoding
    return iter(line.encode("utf-8", "surrogatepass") for line in whole), "utf-8"


def _refuse_wide(file: str, encoding: str) -> None:
    """Raises RowError for a file that begins with a mark of UTF-16, once and not for every line."""
    begin = b""
    with suppress(RowError):  # what is damaged is told when it is read
        begin = first_bytes(file, 4) if encoding == "utf-8" else b""
    if begin[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise undecodable(f"{file}:1", begin, UnicodeDecodeError("utf-8", begin, 0, 1, "a mark of UTF-16"))


def _parse_line(line: bytes, where: str, number: int, encoding: str, reader: JsonReader) -> _Found:
    try:
        value, twice = reader.read(line.decode(encoding))
    except (ValueError, RecursionError) as error:  # of which two kinds say where
        return _not_json(line, error, where, encoding)
    return _row(value, where, number, twice)


class _Twice(dict[str, Any]):
    """An object that has a key twice."""

    key = ""


class JsonReader:
    """Reads JSON and finds objects that have a key twice: which of its values is meant, nobody knows."""

    def __init__(self) -> None:
        self._twice = False
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def read(self, text: str) -> tuple[Any, bool]:
        """The value, and whether an object in it has a key twice (a ``_Twice``)."""
        self._twice = False
        return self._decoder.decode(text), self._twice

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        found = _Twice(value)
        names = [key for key, _ in pairs]
        found.key = next(key for key in names if names.count(key) > 1)
        self._twice = True
        return found


def _first_twice(value: Any) -> _Twice | None:
    """The first object in a value that has a key twice."""
    if isinstance(value, _Twice):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for part in parts if (found := _first_twice(part)) is not None), None)


def _not_json(line: bytes, error: Exception, where: str, encoding: str) -> RowError:
    if isinstance(error, UnicodeDecodeError):
        return undecodable(where, line, error, encoding)
    if (refused := no_text(where, line)) is not None:
        return refused
    if isinstance(error, json.JSONDecodeError):
        return RowError(
            "malformed_json", f"{where}: column {error.colno}: not JSON ({error.msg}); one JSON object a line"
        )
    if isinstance(error, RecursionError):
        return RowError("too_deep", f"{where}: nested too deep; a flat object is needed")
    return RowError("malformed_json", f"{where}: not JSON ({str(error)[:80]}); one JSON object a line")


def _row(value: Any, where: str, number: int, twice: bool = False) -> _Found:
    if isinstance(value, dict):
        if twice and (found := _first_twice(value)) is not None:
            return RowError(
                "duplicate_key",
                f"{where}: an object has the key {found.key[:40]!r} twice, and no order says which counts; leave one",
            )
        return number, value
    what = in_json(value) if value is None else f"{in_json(value)} ({str(value)[:40]!r})"
    return RowError("not_an_object", f"{where}: {what}; an object {{...}} is needed")


def read_json(file: str, encoding: str) -> Iterator[_Found]:
    """(item, object) of a .json: a list, an object with one list, or one row. Raises RowError for the whole file."""
    data = read_bytes(file)
    whole, twice = _parse_whole(data, file, encoding)
    if isinstance(whole, dict):
        lists = [key for key, v in whole.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
        known = {"messages", "conversations", "completions", "chosen", "rejected", "prompt"}
        if len(lists) == 1 and not known & whole.keys():
            if keys := row_keys.unused(whole, lists, None):
                raise row_keys.refusal(keys[:8], lists, f"{file}: beside the list '{lists[0]}'")
            whole = whole[lists[0]]
        else:
            whole = [whole]
    if not isinstance(whole, list):
        raise RowError("not_an_object", f"{file}: {in_json(whole)}; a list of objects is needed")
    for number, value in enumerate(whole, start=1):
        yield _row(value, f"{file}:item {number}", number, twice)


def _parse_whole(data: bytearray, file: str, encoding: str) -> tuple[Any, bool]:
    try:
        return JsonReader().read(data.decode(encoding).removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise undecodable(f"{file}:line {line}", data, error, encoding) from None
    except json.JSONDecodeError as error:
        hint = "; one object a line is a .jsonl" if error.msg == "Extra data" else ""
        raise RowError(
            "malformed_json", f"{file}:line {error.lineno}: column {error.colno}: {error.msg}{hint}"
        ) from None
    except RecursionError:
        raise RowError("too_deep", f"{file}: nested too deep; a list of flat objects is needed") from None
    except ValueError as error:
        raise RowError("malformed_json", f"{file}: not JSON ({str(error)[:80]})") from None

"""``data.columns`` at work: the keys of rows under the names of their format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lit_llm.data.column_map import as_mapping
from lit_llm.data.file_rows import Row
from lit_llm.data.formats import FORMATS, Format, Kind, Parse
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest


class Columns:
    """Renames the keys of rows, and knows at the end which of its columns no row had.

    Args:
        given: {their name: the format's name}, or the same as text: ``{question: prompt}``.

    Raises:
        UserError: two become one, or no format of this kind reads a name. A function of the user's reads any.
    """

    def __init__(self, given: Mapping[str, str] | str | None, kind: Kind, parse: Format | Parse | None) -> None:
        self.names = as_mapping(given)
        self._unseen = dict.fromkeys(self.names)
        self.seen_rows = False  # rows with keys
        self._found: dict[str, None] = {}  # keys of the rows, for the message
        if parse is None or isinstance(parse, Format):
            self._check(_read_by(kind, parse))

    def _check(self, known: Iterable[str]) -> None:
        known = list(dict.fromkeys(known))
        for column, name in self.names.items():
            if name not in known:
                near = nearest(name, known)
                hint = f"; did you mean {near}?" if near else ""
                raise UserError(f"data.columns.{column}={name}: no format here reads it; {', '.join(known)}{hint}")

    def renamed(self, rows: Iterable[Row | RowError]) -> Iterator[Row | RowError]:
        """The rows under the format's names. A row that has such a name already as well is a RowError."""
        for row in rows:
            if not self.names or isinstance(row, RowError) or isinstance(row.value, str):
                yield row
                continue
            self._see(row.value)
            kept = {key for key in row.value if key not in self.names}
            twice = next((column for column in self.names if column in row.value and self.names[column] in kept), None)
            if twice is not None:
                yield RowError(
                    "column_taken",
                    f"{row.where}: data.columns makes '{twice}' to '{self.names[twice]}', which the row has too; take "
                    "one of the two out",
                )
                continue
            yield row.holding({self.names.get(key, key): one for key, one in row.value.items()})

    def _see(self, value: Mapping[str, Any]) -> None:
        self.seen_rows = True
        if self._unseen:
            for column in [column for column in self._unseen if column in value]:
                del self._unseen[column]
            if len(self._found) < 40:
                self._found |= dict.fromkeys(map(str, value))

    def seen(self) -> dict[str, Any]:
        """What it has met of the rows, as JSON takes it."""
        return {"rows": self.seen_rows, "unseen": list(self._unseen), "found": list(self._found)}

    def join(self, seen: Mapping[str, Any]) -> None:
        """What was met in another part of the data (``seen``)."""
        self.seen_rows = self.seen_rows or seen["rows"]
        self._unseen = {column: None for column in self._unseen if column in seen["unseen"]}
        self._found |= dict.fromkeys(seen["found"][: max(0, 40 - len(self._found))])

    def check_seen(self) -> None:
        """Raises UserError for a column that no row has."""
        for column in self._unseen:
            keys = [key for key in self._found if key not in self.names] or list(self._found)
            near = nearest(column, keys)
            hint = f"; did you mean {near}?" if near else ""
            have = (
                f"the rows have {', '.join(list(self._found)[:12])}"
                if self.seen_rows
                else "there are no rows with keys"
            )
            raise UserError(f"data.columns.{column}={self.names[column]}: no row has this column; {have}{hint}")


def _read_by(kind: Kind, parse: Format | None) -> Iterator[str]:
    """All keys that a format of this kind, or this one, may read."""
    for form in [parse] if parse is not None else [form for form in FORMATS if form.kind == kind]:
        for keys in form.keys:
            yield from keys
            if form.read_of is not None:
                yield from form.read_of(dict.fromkeys(keys))
        yield from form.more

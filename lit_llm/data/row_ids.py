"""Rows with the id of an earlier one that say something else."""

from __future__ import annotations

from lit_llm.data.file_rows import Row
from lit_llm.data.filters import Record, content_key, group_key
from lit_llm.records import Comparison, Labelled

IDS = ("id", "_id", "uuid", "uid")


class RowIds:
    """Finds rows with the id of an earlier one and other content."""

    def __init__(self) -> None:
        self.repeated, self.first = 0, ""
        self._known: dict[int, tuple[int, bytes]] = {}  # hash of the id: the row's place, what it says
        self._last = 0

    def see(self, row: Row, record: Record) -> None:
        """A ranking's other annotators and its labels have its id with the same prompt: that is what they are of."""
        if isinstance(row.value, str):
            return
        key = next((k for k in IDS if row.value.get(k) not in (None, "")), None)
        if key is None:
            return
        place = hash((row.file, row.line))
        said = group_key(record) if isinstance(record, Comparison | Labelled) else content_key(record)
        known = self._known.setdefault(hash((key, str(row.value[key]))), (place, said))
        if known[0] != place and known[1] != said and self._last != place:
            self.repeated, self._last = self.repeated + 1, place
            self.first = self.first or f"{row.where} ('{key}' is {str(row.value[key])[:40]!r})"

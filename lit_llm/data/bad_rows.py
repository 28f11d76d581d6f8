"""All that is wrong with the data, said at once: bad rows are collected by reason, and end the run together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError

SHOWN = 10  # rows of each reason
KINDS = 20  # reasons
FURTHER = 100_000  # rows that are still read after the first bad one
GO_ON = "(data.on_error=skip counts such rows and goes on)"
T = TypeVar("T")


class BadRows:
    """The bad rows of a run that stops at them: the first ``SHOWN`` of each reason, and how many there are."""

    def __init__(self) -> None:
        self._first: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        self._read = self._since = 0
        self.cut = False  # there are more rows than were looked at

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, error: RowError) -> None:
        self._counts[error.reason] += 1
        shown = self._first.setdefault(error.reason, [])
        if len(shown) < SHOWN:
            shown.append(str(error))

    def looked_at(self, rows: Iterable[T]) -> Iterator[T]:
        """The rows; of those after a bad one ``FURTHER``."""
        for row in rows:
            if self and self._since >= FURTHER:
                self.cut = True
                return
            self._since += bool(self)
            self._read += 1
            yield row

    def end(self, path: object) -> None:
        """Raises UserError with all that was found: one bad row in a line, several by their reason."""
        total = sum(self._counts.values())
        if total == 1:
            raise UserError(f"{next(iter(self._first.values()))[0]} {GO_ON}")
        if not total:
            return
        beyond = "; the rows behind these were not looked at" if self.cut else ""
        lines = [f"data.path={path}: {total:,} of {self._read:,} rows are bad{beyond} {GO_ON}"]
        for reason, number in self._counts.most_common(KINDS):
            first = self._first[reason]
            more = f", the first {len(first)}" if number > len(first) else ""
            lines.append(f"{reason}: {number:,}{more}:")
            lines += [f"  {told}" for told in first]
        raise UserError("\n".join(lines))

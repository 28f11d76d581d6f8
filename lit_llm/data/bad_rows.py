"""All that is wrong with the data, said at once: bad rows are collected by reason, and end the run together or are
named beside what is read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from lit_llm.data.file_rows import Row
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError
from lit_llm.runtime.counted import counted, verb

SHOWN = 10  # rows of each reason
NAMED = 3  # of each reason, where a line is for them all
KINDS = 20  # reasons
FURTHER = 100_000  # rows that are still read after the first bad one
GO_ON = "(data.on_error=skip counts such {} and goes on)"
_NUMBERED = re.compile(r"(.*:(?:[a-z]+ )?)(\d+)", re.DOTALL)  # a place with a line, an item or a row
LONG = 40  # characters of what all messages of a reason end with, from which on it is said once


class BadRows:
    """The bad rows of a run: the first ``SHOWN`` of each reason, and how many there are."""

    def __init__(self) -> None:
        self._first: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        self._read = self._since = 0
        self._files: set[str] = set()  # that are looked at
        self._unread = 0  # of these, those that cannot be read, or not further
        self.cut = False  # there are more rows than were looked at

    def __bool__(self) -> bool:
        return bool(self._counts)

    def only(self, reason: str) -> bool:
        """Whether no other reason was met."""
        return not self or set(self._counts) == {reason}

    def wants(self, reason: str) -> bool:
        """Whether what a further row of this reason says would be told; of later ones the number alone is."""
        return len(self._first.get(reason, ())) < SHOWN

    def add(self, error: RowError) -> None:
        self._unread += error.whole_file
        self._counts[error.reason] += 1
        if self.wants(error.reason):
            self._first.setdefault(error.reason, []).append(str(error))

    def join(self, later: BadRows) -> None:
        """Those of another part of the data, which stands behind this one."""
        for reason, some in later._first.items():
            shown = self._first.setdefault(reason, [])
            shown += some[: SHOWN - len(shown)]
        self._since += later._since or (later._read if self else 0)
        self._counts += later._counts
        self._read, self._unread = self._read + later._read, self._unread + later._unread
        self._files |= later._files
        self.cut = self.cut or later.cut

    def plain(self) -> dict[str, Any]:
        """{reason: {"number": of these, "first": what is told of the first}}, as JSON takes it."""
        return {
            reason: {"number": number, "first": self._first[reason]} for reason, number in self._counts.most_common()
        }

    def join_plain(self, plain: Mapping[str, Any]) -> None:
        """Those of another part of the data (``plain``), which stands behind this one."""
        later = BadRows()
        later._first = {reason: list(told["first"]) for reason, told in plain.items()}
        later._counts = Counter({reason: told["number"] for reason, told in plain.items()})
        self.join(later)

    def lines(self) -> Iterator[str]:
        """A line for each reason: how many, the first of them, and what is wrong with the first."""
        for reason, number in self._counts.most_common(KINDS):
            first = self._first[reason][:NAMED]
            places = ", ".join(_in_files([one.partition(": ")[0] for one in first]))
            more = f" and {number - len(first):,} more" if number > len(first) else ""
            yield f"bad, {reason} {number:,}: {places}{more}: {first[0].partition(': ')[2]}"

    def passed(self, rows: int, files: Iterable[str]) -> None:
        """So many good rows of a part of the data, which stands behind this one."""
        self._read += rows
        self._files |= set(files)

    def looked_at(self, rows: Iterable[Row | RowError]) -> Iterator[Row | RowError]:
        """The rows; of those after a bad one ``FURTHER``."""
        for row in rows:
            if self and self._since >= FURTHER:
                self.cut = True
                return
            self._since += bool(self)
            self._read += not (isinstance(row, RowError) and row.whole_file)
            if row.file:
                self._files.add(row.file)
            yield row

    def end(self, path: object) -> None:
        """Raises UserError with all that was found: one bad row in a line, several by their reason."""
        total = sum(self._counts.values())
        rows = total - self._unread
        such = GO_ON.format("rows" if not self._unread else "files" if not rows else "rows and files")
        if total == 1:
            raise UserError(f"{next(iter(self._first.values()))[0]} {such}")
        if not total:
            return
        said = [f"{rows:,} of {counted(self._read, 'row')} {verb(rows, 'is', 'are')} bad"] if rows else []
        if self._unread:
            said.append(f"{self._unread:,} of {counted(len(self._files), 'file')} cannot be read")
        beyond = "; the rows behind these were not looked at" if self.cut else ""
        lines = [f"data.path={path}: {', and '.join(said)}{beyond} {such}"]
        for reason, number in self._counts.most_common(KINDS):
            first = self._first[reason]
            more = f", the first {len(first)}" if number > len(first) else ""
            causes = _by_cause(first)
            end = _common_end([*causes]) if len(causes) > 1 else next(iter(causes)) if len(first) > 1 else ""
            lines.append(f"{reason}: {number:,}{more}: {end}".rstrip())
            for cause, places in causes.items():
                own = cause[: len(cause) - len(end)].rstrip(" ;:")
                lines += [f"  {place}{f': {own}' if own else ''}" for place in _in_files(places)]
        raise UserError("\n".join(lines))


def _by_cause(told: Sequence[str]) -> dict[str, list[str]]:
    """The places of messages by what stands behind them."""
    found: dict[str, list[str]] = {}
    for one in told:
        place, _, cause = one.partition(": ")
        found.setdefault(cause, []).append(place)
    return found


def _in_files(places: Sequence[str]) -> Iterator[str]:
    """Places in one file as one: ``qa.csv:2, 3, 4``."""
    numbers: dict[str, list[str]] = {}
    for place in places:
        found = _NUMBERED.fullmatch(place)
        file, number = (found[1], found[2]) if found else (place, "")
        numbers.setdefault(file, []).append(number)
    for file, some in numbers.items():
        yield f"{file}{', '.join(sorted(set(some), key=lambda number: int(number or 0)))}"


def _common_end(told: Sequence[str]) -> str:
    """What several messages end with, from a clause on, such as what to do; nothing where that is short."""
    same = commonprefix([one[::-1] for one in told])[::-1]  # noqa: RUF071  (texts)
    begin = re.search(r"(?<=[;:] )", same)
    return same[begin.start() :] if begin and len(same) - begin.start() > LONG else ""

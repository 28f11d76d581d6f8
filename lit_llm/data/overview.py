"""What a run's data is, as a table: a line for each kind of file, from what reading and tokenizing know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any

from lit_llm.data.bad_rows import BadRows
from lit_llm.data.dropped_passages import DroppedPassages
from lit_llm.data.file_rows import Row, extension
from lit_llm.data.filters import Record
from lit_llm.data.projects import is_project
from lit_llm.data.quality import screening as quality
from lit_llm.data.quality.text_of import texts_of
from lit_llm.data.row_errors import RowError
from lit_llm.data.sources import NO_LOSS, remedy_of
from lit_llm.records import Document
from lit_llm.runtime.counted import counted, verb

LOUD = 0.1
"""Share of the files, or of the rows, above which it is said loudly that they are not read, or are dropped."""
FEW_WORDS = 15
"""Characters a word on average, above which a text is counted in characters: its script has no blanks between words."""
SLICE = 2**16  # characters whose words are counted at a time
_MARKS = bytes(ord(" " if chr(code).isspace() else "x") for code in range(256))
"""For the bytes of ASCII: a blank, or a part of a word."""
DUPLICATES = ("duplicate", "near_duplicate")
UNNAMED = "without ending"
"""The kind of all files whose names have no ending."""
EXPECTED = (
    "duplicate", "in_heldout", "left_out", "other_half", "no_weight", "unlabelled", "all_tied", *quality.REASONS
)  # fmt: skip
"""Reasons for which rows are left out on purpose: they are read."""


@dataclass
class OfKind:
    """What is known of the files of one kind. Rows are documents, where a file is one."""

    files: set[str] = field(default_factory=set)  # from which a row came, or a bad one
    unread: Counter[str] = field(default_factory=Counter)  # files that are not read, by the reason
    broken_off: Counter[str] = field(default_factory=Counter)  # of ``files``, those whose end is lost, by the reason
    rows: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    words: int = 0  # between blanks, of the rows used; here and below
    characters: int = 0
    tokens: int = 0  # of the rows to train and to validate on
    size: int = 0  # characters of documents, or rows
    heldout: int = 0  # of these, how many are to validate and test on
    languages: Counter[str] = field(default_factory=Counter)  # rows by language, where somebody identified it

    def __iadd__(self, other: OfKind) -> OfKind:
        self.files |= other.files
        self.unread += other.unread
        self.broken_off += other.broken_off
        self.skipped += other.skipped
        self.languages += other.languages
        for name in ("rows", "used", "words", "characters", "tokens", "size", "heldout"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        kinds: dict[type, Any] = {set: sorted, Counter: dict, int: int}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: kinds[type(value)](value) for name, value in values.items()}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> OfKind:
        """What ``plain`` told."""
        kinds: dict[type, Any] = {list: set, dict: Counter}
        return cls(**{name: kinds.get(type(value), int)(value) for name, value in plain.items()})

    @property
    def heldout_share(self) -> float:
        return self.heldout / self.size if self.size else 0.0

    @property
    def duplicates(self) -> int:
        return sum(self.skipped[reason] for reason in DUPLICATES)

    @property
    def in_characters(self) -> bool:
        """Whether the script has no blanks between words, so that words say nothing."""
        return self.characters > FEW_WORDS * self.words

    @property
    def noun(self) -> str:
        """What a row is called: a file, where none has more than one (documents, texts)."""
        return "files" if self.rows <= len(self.files) else "rows"

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "files": len(self.files), "unread_files": dict(self.unread), "rows": self.rows, "used": self.used,
            "skipped": dict(sorted(self.skipped.items())), "duplicates": self.duplicates, "words": self.words,
            "characters": self.characters, "tokens": self.tokens, "heldout_share": round(self.heldout_share, 6),
        }  # fmt: skip
        more = {"languages": dict(self.languages.most_common()), "broken_off": dict(self.broken_off)}
        return found | {name: value for name, value in more.items() if value}


@dataclass
class Overview:
    """Files by their kind: an extension, ``hub``, or ``project``. What is trained beside a user's data (text that is
    replayed) is told apart: it must not thin out what is said of that data."""

    kinds: dict[str, OfKind] = field(default_factory=dict)
    passages: DroppedPassages = field(default_factory=DroppedPassages)  # of few long texts
    bad: BadRows = field(default_factory=BadRows)  # that are left out (data.on_error=skip)
    beside: dict[str, Overview] = field(default_factory=dict)  # by the key that names it, such as data.replay_path
    _file: str = ""  # that is being read

    def of(self, file: str) -> OfKind:
        """What is known of the files of one's kind."""
        kind = kind_of(file)
        if (found := self.kinds.get(kind)) is None:
            found = self.kinds[kind] = OfKind()
        return found

    def not_read(self, file: str, reason: str) -> None:
        """A file that is there, and that nobody opens."""
        self.kinds.setdefault(extension(file) or UNNAMED, OfKind()).unread[reason] += 1

    def of_key(self, key: str) -> Overview:
        """What is known of the data beside this, which a key names; "": of this itself."""
        return self.beside.setdefault(key, Overview()) if key else self

    def plain(self) -> dict[str, Any]:
        """Its kinds of files, as JSON takes it."""
        return {kind: one.plain() for kind, one in self.kinds.items()}

    def join(self, plain: Mapping[str, Any]) -> None:
        """Adds what is known of another part of the data (``plain``)."""
        for kind, told in plain.items():
            self.kinds.setdefault(kind, OfKind()).__iadd__(OfKind.of(told))

    def __iadd__(self, other: Overview) -> Overview:
        for kind, more in other.kinds.items():
            self.kinds.setdefault(kind, OfKind()).__iadd__(more)
        for key, one in other.beside.items():
            self.of_key(key).__iadd__(one)
        self.passages += other.passages
        self.bad.join(other.bad)
        return self

    def following(self, rows: Iterable[Row | RowError]) -> Iterator[Row | RowError]:
        """The rows; remembers of which file the last one is, whatever becomes of it."""
        for row in rows:
            self._file = row.file
            yield row

    def read(self, row: Row | RowError) -> OfKind:
        """Counts a row of the file that is being read; or the file, where the row tells that it cannot be read."""
        of = self.of(self._file)
        if isinstance(row, RowError) and row.whole_file:
            (of.broken_off if self._file in of.files else of.unread)[row.reason] += 1
            return of
        of.files.add(self._file)
        of.rows += 1
        return of

    def use(self, row: Row, record: Record) -> int:
        """A row that is used; gives its words."""
        of, words = self.of(row.file), 0
        of.used += 1
        for text in texts_of(record):
            words += words_in(text)
            of.characters += len(text)
        of.words += words
        return words

    def leave_out(self, record: Record, reason: str) -> None:
        """A record that was used is left out after all: a near duplicate, one that is held out elsewhere."""
        if (of := self._of(record)) is not None:
            of.used -= 1
            of.skipped[reason] += 1
            of.words -= sum(map(words_in, texts_of(record)))
            of.characters -= sum(map(len, texts_of(record)))

    def drop_passages(self, whole: Document, kept: Sequence[str], lost: int) -> None:
        """Of a text that was used ``lost`` characters are dropped, in one passage or more; ``kept``: what is left."""
        self.passages.add(whole.file or whole.source, lost, len(whole.text))
        if (of := self._of(whole)) is not None:
            of.words += sum(map(words_in, kept)) - words_in(whole.text)
            of.characters -= lost

    def _of(self, record: Record) -> OfKind | None:
        """Of the record's kind of file; None of one that came from no file."""
        return self.kinds.get(kind_of(record.file)) if record.file else None

    def divide(self, splits: Mapping[str, Sequence[Record]]) -> None:
        """What is held out, of the records as they were split."""
        for name, records in splits.items():
            for of, size in self._sizes(records, [_size(record) for record in records]):
                of.size += size
                of.heldout += size if name != "train" else 0

    def add_tokens(self, records: Sequence[Record], tokens: Sequence[int]) -> None:
        """The tokens of each of the records."""
        for of, number in self._sizes(records, tokens):
            of.tokens += number

    def _sizes(self, records: Sequence[Record], sizes: Sequence[int]) -> Iterator[tuple[OfKind, int]]:
        if len(self.kinds) == 1:
            yield next(iter(self.kinds.values())), int(sum(sizes))
            return
        for record, size in zip(records, sizes, strict=True):
            if (of := self._of(record)) is not None:
                yield of, int(size)

    @property
    def whole(self) -> OfKind:
        total = OfKind()
        for one in self.kinds.values():
            total += one
        return total

    @property
    def tokens(self) -> int:
        """Of the rows to train and to validate on, also of the data beside it."""
        return self.whole.tokens + sum(one.tokens for one in self.beside.values())

    def as_dict(self) -> dict[str, Any]:
        """{"kinds": {extension: counts}, "all": counts}, as JSON takes it; where there is data beside it also
        {"beside": {key: the same of that}}, and of what is left out "bad" rows by reason and "dropped_passages"."""
        kinds = {kind: one.as_dict() for kind, one in sorted(self.kinds.items())}
        beside = {key: one.as_dict() for key, one in self.beside.items()}
        found = {"kinds": kinds, "all": self.whole.as_dict()} | ({"beside": beside} if beside else {})
        found |= {"bad": self.bad.plain()} if self.bad else {}
        return found | ({"dropped_passages": self.passages.as_dict(self.whole.characters)} if self.passages else {})

    # As people read it

    def lines(self, later: Mapping[str, int] | None = None) -> list[str]:
        """The table, and what is loud.

        Args:
            later: rows that were left out after reading, by reason: too long, refused by the template.
        """
        kinds = dict(sorted(self.kinds.items(), key=lambda item: -item[1].characters))
        rows = [_cells(kind, one) for kind, one in kinds.items()]
        if len(kinds) > 1:
            rows.append(_cells("all", self.whole))
        rows += [_cells(key, one.whole) for key, one in self.beside.items()]
        table = [HEADER, *rows]
        every = [*kinds.values(), *(one.whole for one in self.beside.values())]
        hidden = set() if any(one.size or one.tokens for one in every) else {5, 6}  # it ended before these were known
        hidden |= {column for column in (7, 8) if not any(row[column] for row in rows)}
        shown = [column for column in range(len(HEADER)) if column not in hidden]
        widths = {column: max(len(row[column]) for row in table) for column in shown}
        lines = ["  ".join(_aligned(row[column], widths[column], column) for column in shown).rstrip() for row in table]
        for kind, one in kinds.items():
            lines += _not_used(kind, one)
        for key, other in self.beside.items():
            for kind, one in other.kinds.items():
                lines += _not_used(kind, one, f"{key}: ")
        for key, part in (("", self), *((f"{key}: ", part) for key, part in self.beside.items())):
            lines += [f"{key}{line}" for line in part.bad.lines()]
            if part.passages:
                lines.append(f"{key}{part.passages.line(part.whole.characters)}")
        if later := {reason: number for reason, number in (later or {}).items() if number > 0}:
            lines.append(f"then left out: {', '.join(f'{number:,} {reason}' for reason, number in later.items())}")
        return lines

    def warnings(self) -> list[str]:
        """A line each for files, and for rows, of which more than a tenth is not read; for files that break off; for
        text of which more than a tenth is dropped in passages."""
        whole = self.whole
        unread_of = {kind: Counter(one.unread) for kind, one in self.kinds.items()}
        missed = {kind: some.total() - sum(some[why] for why in NO_LOSS) for kind, some in unread_of.items()}
        unread, files = sum(missed.values()), len(whole.files)
        found = []
        if unread > LOUD * (unread + files):
            of_kinds = ", ".join(f"{number:,} {kind}" for kind, number in missed.items() if number)
            share = unread / (unread + files)
            found.append(f"{share:.0%} OF THE FILES ARE NOT READ: {unread:,} of {unread + files:,} ({of_kinds})")
        if lost := whole.broken_off:
            said = ", ".join(f"{number:,} {reason}" for reason, number in lost.most_common())
            what = verb(lost.total(), "IS READ IN PART, and its end is", "ARE READ IN PART, and their ends are")
            found.append(f"{lost.total():,} of {counted(files, 'FILE', 'FILES')} {what} lost ({said})")
        bad = Counter({reason: number for reason, number in whole.skipped.items() if reason not in EXPECTED})
        if bad.total() > LOUD * whole.rows:
            said = ", ".join(f"{number:,} {reason}" for reason, number in bad.most_common())
            found.append(
                f"{bad.total() / whole.rows:.0%} OF THE ROWS ARE NOT READ: {bad.total():,} of {whole.rows:,} ({said})"
            )
        if self.passages.share(whole.characters) > LOUD:
            found.append(self.passages.warning(whole.characters))
        return found + [f"{key}: {line}" for key, one in self.beside.items() for line in one.warnings()]


HEADER = ("files", "read", "rows", "used", "words", "tokens", "held out", "duplicates", "languages")


def _cells(kind: str, one: OfKind) -> tuple[str, ...]:
    files = len(one.files)
    amount = counted(one.characters, "character") if one.in_characters else f"{one.words:,}"
    languages = ", ".join(
        f"{name} {number / one.languages.total():.0%}" for name, number in one.languages.most_common(3)
    )
    return (
        kind, f"{files:,} of {files + sum(one.unread.values()):,}", f"{one.rows:,}", f"{one.used:,}", amount,
        f"{one.tokens:,}", f"{one.heldout_share:.1%}", f"{one.duplicates:,}" if one.duplicates else "", languages,
    )  # fmt: skip


def _not_used(kind: str, one: OfKind, key: str = "") -> Iterator[str]:
    """What of a kind's rows and files is not used, and why; of files that no reader takes also what to do."""
    if one.skipped:
        said = ", ".join(f"{number:,} {reason}" for reason, number in one.skipped.most_common())
        yield f"{key}{kind}: rows left out: {said}"
    if one.unread:
        told = (f"{number:,} ({why}{remedy_of(kind, why)})" for why, number in one.unread.most_common())
        yield f"{key}{kind}: files not read: {', '.join(told)}"
    if one.broken_off:
        said = ", ".join(f"{number:,} ({why})" for why, number in one.broken_off.most_common())
        yield f"{key}{kind}: files read in part: {said}"


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, 8) else cell.rjust(width)


@cache
def kind_of(file: str) -> str:
    """An extension, ``hub`` or ``project``; of files without one ``UNNAMED``."""
    if file.startswith("hub:"):
        return "hub"
    if is_project(file):
        return "project"
    return extension(file) or UNNAMED


def words_in(text: str) -> int:
    """What ``len(text.split())`` gives, without a list of all words of a text that may be gigabytes."""
    count = 0
    for at in range(0, len(text), SLICE):
        count += _words_in(text[at : at + SLICE])
        count -= bool(at) and not text[at - 1].isspace() and not text[at].isspace()  # a word in two slices
    return count


def _words_in(text: str) -> int:
    if not text.isascii():
        return len(text.split())
    marks = text.encode("ascii").translate(_MARKS)  # three times as fast as texts of the words
    return marks.count(b" x") + marks.startswith(b"x")


def _size(record: Record) -> int:
    return len(record.text) if isinstance(record, Document) else 1

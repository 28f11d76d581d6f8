"""Rows to records with every row accounted for: read = used + skipped, by reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lit_llm.data.bad_rows import BadRows
from lit_llm.data.cells import with_cells
from lit_llm.data.charsets import AUTO
from lit_llm.data.columns import Columns
from lit_llm.data.counts import HARMLESS, Counts
from lit_llm.data.documents.needs import KINDS as DOCUMENTS
from lit_llm.data.encodings import checked_encoding, holds_utf8
from lit_llm.data.file_rows import TEXTS, Row, extension, read_rows
from lit_llm.data.filters import Record, cleaned, cleaned_row, content_key
from lit_llm.data.formats import Kind, find_format, no_rows_among, parse_row
from lit_llm.data.found_encodings import FoundEncodings, warn_once
from lit_llm.data.holding_out import hold_out
from lit_llm.data.not_usable import known_at_the_end
from lit_llm.data.options import DataOptions, DataPath
from lit_llm.data.quality.screening import Screening, screening_of
from lit_llm.data.row_errors import RowError
from lit_llm.data.row_ids import RowIds
from lit_llm.data.sources import TELLS, resolve, why_not_read
from lit_llm.data.splits import NAMES, UNDIVIDED
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document
from lit_llm.runtime.counted import counted, verb
from lit_llm.runtime.progress_bars import at_work

log = logging.getLogger(__name__)
Expand = Callable[[Row], Iterable[Row | RowError]]
"""Makes several rows of one, each counted by itself: a ranking has a label for each of its completions."""


@dataclass(frozen=True)
class Records:
    """Records by split: ``train``, ``validation``, ``test`` and ``test_<name>``; a split may be missing."""

    splits: dict[str, list[Any]]
    counts: Counts

    def __getitem__(self, split: str) -> list[Any]:
        return self.splits.get(split, [])

    def that_count(self, weight: Callable[[Any], float], reasons: dict[str, int]) -> Records:
        """Those of the training and validation splits that weigh more than 0; the others are counted in ``reasons``."""
        splits = dict(self.splits)
        for name in {"train", "validation"} & set(splits):
            splits[name] = [one for one in self.splits[name] if weight(one) > 0]
            reasons["no_weight"] += len(self.splits[name]) - len(splits[name])
        return Records(splits, self.counts)


def read_records(
    path: DataPath,
    kind: Kind,
    options: DataOptions | None = None,
    *,
    expand: Expand | None = None,
    screening: Screening | None = None,
) -> Records:
    """Read, check, deduplicate and split.

    Args:
        path: see ``sources.resolve``.
        kind: "texts" -> Document, "examples" -> Example, "comparisons" -> Comparison, "labels" ->
            Labelled, "prompts" -> Prompt.
        options: how; None: their defaults. Rows are held out by content hash where the files do not say; rows with the
            same prompt stay together, and a text stays whole unless there are fewer than ``FEW_TEXTS`` (20): then about
            200 blocks are made of them, and some of those are held out.
        screening: which records are left out beside bad rows; None: as the options say.

    Raises:
        UserError: bad rows (``on_error="stop"``), too many of them, or no usable row at all.
    """
    options = DataOptions() if options is None else options
    ignored: list[str] = []
    files = resolve(path, options.cache_dir, ignored)
    if kind != "texts":
        own = options.format is not None and "." in options.format
        files = _with_rows(files, path, kind, ignored, own_function=own)
    reading = Reading(kind, options, expand=expand, screening=screening, ids=RowIds())
    counts = reading.counts
    tell_unread(path, ignored, kind, counts)
    shares = options.validation_fraction, options.test_fraction
    with at_work(f"read {kind}"):
        splits = {name: list(reading.records(reading.rows(members), name)) for name, members in files.items()}
        with known_at_the_end(counts.overview):
            reading.end(path)
            divided = hold_out(splits, kind, counts, *shares, reading.screening)
    counts.overview.divide(divided)
    return Records(divided, counts)


_NONE = "", 0, b""


class Last(NamedTuple):
    """What is known of the record that came last."""

    line: int  # of its row
    key: bytes  # of its content
    words: int
    language: str  # "" where nobody asked


class Reading:
    """One pass over rows: how they become records, and what became of each.

    Args:
        ids: finds rows with the id of another; None: these are not looked for.
        remembered: so many texts at most are compared with those that follow, to find duplicates; None: all of them.
        Others as of ``read_records``.
    """

    def __init__(
        self,
        kind: Kind,
        options: DataOptions,
        *,
        expand: Expand | None = None,
        screening: Screening | None = None,
        ids: RowIds | None = None,
        remembered: int | None = None,
    ) -> None:
        self.kind, self.options, self.ids = kind, options, ids
        self._remembered = remembered
        self.encoding = checked_encoding(options.encoding)
        self.screening = screening or screening_of(options)
        self.counts, self.encodings = Counts(), FoundEncodings()
        self.bad = BadRows() if options.on_error == "stop" else None
        self._parse = find_format(options.format, kind)
        self.columns = Columns(options.columns, kind, self._parse)
        self._expand = expand
        self.last: Last | None = None

    def rows(self, files: Sequence[str], processes: int | None = None) -> Iterator[Row | RowError]:
        """Every row of the files. ``processes``: that read documents; None: as many as there are processors."""
        return read_rows(files, self.encoding, self.options.cache_dir, processes)

    def records(self, rows: Iterable[Row | RowError], split: str) -> Iterator[Record]:
        """The usable records of a split's rows; what else there is is counted, errors in ``bad`` where they end the
        run."""
        rows = self.counts.overview.following(self.encodings.seen(rows))
        rows = rows if self.encoding in ("utf-8", AUTO) else _told_if_utf8(rows, self.encoding)
        rows = with_cells(self.columns.renamed(rows), self.kind, self._parse)
        rows = _expanded(_cleaned(rows, self.counts.altered) if self.options.clean else rows, self._expand)
        if split in (UNDIVIDED, "train") and "split" not in self.options.ignore_keys:
            rows = map(_to_train_on, rows)
        return self._kept(rows if self.bad is None else self.bad.looked_at(rows))

    def _kept(self, rows: Iterable[Row | RowError]) -> Iterator[Record]:
        counts, seen = self.counts, set[bytes]()
        for row in rows:
            counts.read += 1
            of = counts.overview.read(row)
            language: Counter[str] = Counter()
            try:
                record = self._record(row)
                key = content_key(record)
                if key in seen and self.screening.deduplicate != "off":
                    raise RowError("duplicate", f"{record.source}: says the same as an earlier row")
                refusal = self.screening.refused(record, language)
                if language:
                    of.languages += language
                if refusal:
                    raise RowError(*refusal)
            except RowError as error:
                if error.reason not in HARMLESS:
                    (counts.overview.bad if self.bad is None else self.bad).add(error)
                counts.skipped[error.reason] += 1
                if not error.whole_file:
                    of.skipped[error.reason] += 1
                counts.first.setdefault(error.reason, str(error))
                continue
            if self._remembered is not None and len(seen) >= self._remembered:
                seen.clear()
            seen.add(key)
            counts.used += 1
            assert isinstance(row, Row)
            words = counts.overview.use(row, record)
            if self.ids is not None:
                self.ids.see(row, record)
            self.last = Last(row.line, key, words, next(iter(language), ""))
            yield record

    def _record(self, row: Row | RowError) -> Record:
        if isinstance(row, RowError):
            raise row
        record = parse_row(row, self.kind, self._parse, self.options.ignore_keys, self.columns.names)
        if record is None:
            raise RowError("left_out", f"{row.where}: left out by the format's function")
        if isinstance(record, Document):
            if not record.text.strip():
                raise RowError("empty_text", f"{row.where}: no text")
            return Document(record.text, record.source, record.tags, row.parts or record.parts, row.file)
        record = replace(record, file=row.file)
        if isinstance(record, Comparison) and len(set(record.ranks)) == 1:
            raise RowError("all_tied", f"{row.where}: all ranks are equal, which says nothing about better and worse")
        return record

    def again(self, rows: Iterable[Row | RowError], wanted: Iterable[tuple[str, int, bytes]]) -> Iterator[Record]:
        """Records of rows that were read before: those of ``wanted``, in their order. Nothing is counted or judged.

        Args:
            wanted: the file, the line and the ``content_key`` of each; several pieces of a text may begin in one line.
        """
        left = iter(wanted)
        file, line, key = next(left, _NONE)

        def at_place() -> Iterator[Row | RowError]:
            for row in rows:
                if not line:
                    return
                if isinstance(row, Row) and row.line == line and row.file == file:
                    yield row

        found = with_cells(self.columns.renamed(at_place()), self.kind, self._parse)
        for row in _cleaned(found, Counter()) if self.options.clean else found:
            with suppress(RowError):  # of another piece in this line
                record = self._record(row)
                if content_key(record) == key:
                    file, line, key = next(left, _NONE)
                    yield record

    def end(self, path: Any) -> None:
        """When all is read. Raises UserError for bad rows that stop the run, too many of them, or no usable row."""
        _refuse(path, self.bad, self.columns, self.counts)
        if self.ids is not None and self.ids.first:
            log.warning(
                "data.path=%s: %s the id of another row and other content; the first: %s",
                *(path, counted(self.ids.repeated, "row has", "rows have"), self.ids.first),
            )
        self.counts.repeated_ids = self.ids.repeated if self.ids is not None else 0
        self.counts.encodings = self.encodings.tell(path)
        _check(self.counts, path, self.options.max_error_rate)


def tell_unread(path: Any, ignored: Collection[str], kind: Kind, counts: Counts) -> None:
    """Counts the files that are there and not read, and warns of those that do not only tell of data."""
    reasons = {file: why_not_read(file, kind) for file in ignored}
    counts.ignored_files = len(reasons)
    for file, reason in reasons.items():
        counts.overview.not_read(file, reason)
    names = sorted({Path(file).name for file, reason in reasons.items() if reason != TELLS})
    if names:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        warn_once(log, f"data.path={path}: files that are not read: {', '.join(names[:8])}{more}")


def _refuse(path: Any, bad: BadRows | None, renaming: Columns, counts: Counts) -> None:
    """Raises UserError for bad rows that stop the run, and for a column of ``data.columns`` that no row has: first for
    that where all that is wrong may follow from it, and not where reading was cut short."""
    if bad is not None and not bad.only("unknown_format"):
        bad.end(path)
    cut = bad is not None and bad.cut
    if not cut and (renaming.seen_rows or not counts.errors):
        renaming.check_seen()
    if bad is not None:
        bad.end(path)


def _with_rows(
    files: dict[str, list[str]], path: Any, kind: Kind, ignored: list[str], *, own_function: bool
) -> dict[str, list[str]]:
    """The files less the documents and texts beside rows, which are no rows: those are not read.

    Args:
        own_function: the format is a function of the user's, which may make a row of a text.

    Raises UserError where there is nothing else, before any of them is read.
    """
    no_rows = DOCUMENTS if own_function else (*DOCUMENTS, *TEXTS)
    rows = {split: [one for one in some if extension(one) not in no_rows] for split, some in files.items()}
    if not any(rows.values()) and not own_function:
        raise UserError(f"data.path={path}: {no_rows_among([one for some in files.values() for one in some], kind)}")
    if not all(rows.values()):
        return files
    ignored += [one for some in files.values() for one in some if extension(one) in no_rows]
    return rows


def _told_if_utf8(rows: Iterable[Row | RowError], encoding: str) -> Iterator[Row | RowError]:
    """The rows; the first that is UTF-8 in truth, though another encoding was said, is told of."""
    told = False
    for row in rows:
        if not told and isinstance(row, Row) and holds_utf8(row.value, encoding):
            told = True
            log.warning(
                "%s: is UTF-8 and is read as data.encoding=%s, which makes other letters of it; leave that out",
                *(row.where, encoding),
            )
        yield row


def _to_train_on(row: Row | RowError) -> Row | RowError:
    """A row among those to train on, or the refusal of one that says itself that it is to be held out."""
    if isinstance(row, RowError) or isinstance(row.value, str):
        return row
    said = row.value.get("split")
    if not isinstance(said, str) or NAMES.get(said.strip().lower(), "train") == "train":
        return row
    return RowError(
        "held_out",
        f"{row.where}: its 'split' is {said.strip()!r}, and it would be trained; put such rows into a file of their "
        f"own (data.path={{train: ..., {NAMES[said.strip().lower()]}: ...}}), or set data.ignore_keys=[split]",
    )


def _expanded(rows: Iterable[Row | RowError], expand: Expand | None) -> Iterator[Row | RowError]:
    for row in rows:
        if expand is None or isinstance(row, RowError):
            yield row
            continue
        try:
            yield from expand(row)
        except RowError as error:
            yield error


def _cleaned(rows: Iterable[Row | RowError], altered: Counter[str]) -> Iterator[Row | RowError]:
    for row in rows:
        if isinstance(row, RowError):
            yield row
            continue
        try:
            value = cleaned(row.value, altered) if isinstance(row.value, str) else cleaned_row(row.value, altered)
        except RecursionError:
            yield RowError("too_deep", f"{row.where}: nested too deep; flat fields are needed")
            continue
        yield row.holding(value)


def _check(counts: Counts, path: Any, max_error_rate: float) -> None:
    bad = [told for reason, told in counts.first.items() if reason not in HARMLESS]
    bad = bad or list(counts.first.values())
    named = list(counts.overview.bad.lines()) if counts.errors > 1 else []
    first = "".join(f"\n  {line}" for line in named) or (f"; the first: {bad[0]}" if bad else "")
    if counts.used == 0:
        raise UserError(f"data.path={path}: no usable row ({counts}){first}")
    if counts.errors > max_error_rate * counts.read:
        what = f"{counts.overview.whole.noun} {verb(counts.errors, 'is', 'are')} bad"
        raise UserError(
            f"data.path={path}: {counts.errors} of {counts.read} {what}, more than "
            f"data.max_error_rate={max_error_rate:g} ({counts}); raise it to go on without them{first}"
        )

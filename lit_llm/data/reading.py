"""Rows to records with every row accounted for: read = used + skipped, by reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lit_llm.data.bad_rows import BadRows
from lit_llm.data.cells import with_cells
from lit_llm.data.charsets import AUTO
from lit_llm.data.columns import Columns
from lit_llm.data.counts import HARMLESS, Counts
from lit_llm.data.documents.needs import KINDS as DOCUMENTS
from lit_llm.data.encodings import checked_encoding, holds_utf8
from lit_llm.data.file_rows import Row, extension, read_rows
from lit_llm.data.filters import Record, cleaned, cleaned_row, content_key, group_key
from lit_llm.data.formats import Format, Kind, Parse, find_format, parse_row
from lit_llm.data.found_encodings import FoundEncodings, warn_once
from lit_llm.data.holding_out import hold_out
from lit_llm.data.options import check_fractions
from lit_llm.data.quality.screening import Screening
from lit_llm.data.row_errors import RowError
from lit_llm.data.sources import TELLS, resolve, why_not_read
from lit_llm.data.splits import NAMES, UNDIVIDED
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document, Labelled

log = logging.getLogger(__name__)
Expand = Callable[[Row], Iterable[Row | RowError]]
"""Makes several rows of one, each counted by itself: a ranking has a label for each of its completions."""
IDS = ("id", "_id", "uuid", "uid")


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
    path: str | int | Sequence[str | int] | Mapping[str, Any],
    kind: Kind,
    *,
    format: str | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    max_error_rate: float = 0.2,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
    cache_dir: str | Path = "outputs/cache",
    expand: Expand | None = None,
    ignore_keys: Collection[str] = (),
    clean: bool = True,
    encoding: str = AUTO,
    screening: Screening | None = None,
    columns: Mapping[str, str] | str | None = None,
) -> Records:
    """Read, check, deduplicate and split.

    Args:
        path: see ``sources.resolve``.
        kind: "texts" -> Document, "examples" -> Example, "comparisons" -> Comparison, "labels" ->
            Labelled, "prompts" -> Prompt.
        format: a name of ``formats.FORMATS`` or the dotted path of a function; None chooses by each row's keys.
        on_error: stop with a line for each of the bad rows (``bad_rows.py``), or skip them and count them by reason.
        max_error_rate: share of bad rows above which skipping ends in an error all the same.
        validation_fraction, test_fraction: held out by content hash where the files do not say; rows with the same
            prompt stay together, and a text stays whole unless there are fewer than ``FEW_TEXTS`` (20): then about
            200 blocks are made of them, and some of those are held out.
        columns: {a row's key: the format's}.

    Raises:
        UserError: bad rows (``on_error="stop"``), too many of them, or no usable row at all.
    """
    if on_error not in ("stop", "skip"):
        raise UserError(f"data.on_error={on_error}: stop or skip")
    check_fractions(validation_fraction, test_fraction)
    ignored: list[str] = []
    files = resolve(path, cache_dir, ignored)
    if kind != "texts":
        files = _without_documents(files, ignored)
    parse = find_format(format, kind)
    counts = Counts(ignored_files=len(set(ignored)))
    _tell_unread(path, {file: why_not_read(file, kind) for file in ignored}, counts)
    encoding = checked_encoding(encoding)
    renaming, bad = Columns(columns, kind, parse), BadRows() if on_error == "stop" else None
    splits: dict[str, list[Record]] = {}
    ids, encodings = _Ids(), FoundEncodings()
    screening = screening or Screening(cache_dir=cache_dir)
    for name, members in files.items():
        rows = counts.overview.following(encodings.seen(read_rows(members, encoding, cache_dir)))
        rows = rows if encoding in ("utf-8", AUTO) else _told_if_utf8(rows, encoding)
        rows = with_cells(renaming.renamed(rows), kind, parse)
        rows = _expanded(_cleaned(rows, counts.altered) if clean else rows, expand)
        if name in (UNDIVIDED, "train") and "split" not in ignore_keys:
            rows = map(_to_train_on, rows)
        rows = rows if bad is None else bad.looked_at(rows)
        splits[name] = list(_kept(rows, kind, parse, bad, counts, ignore_keys, ids, screening))
    _refuse(path, bad, renaming, counts)
    if ids.first:
        log.warning(
            "data.path=%s: %d rows have the id of another row and other content; the first: %s",
            *(path, ids.repeated, ids.first),
        )
    counts.repeated_ids = ids.repeated
    counts.encodings = encodings.tell(path)
    _check(counts, path, max_error_rate)
    divided = hold_out(splits, kind, counts, validation_fraction, test_fraction, screening)
    counts.overview.passages = counts.altered.get("held_out_passages", 0)
    counts.overview.divide(divided)
    return Records(divided, counts)


def _tell_unread(path: Any, reasons: Mapping[str, str], counts: Counts) -> None:
    """Counts the files that are there and not read, and warns of those that do not only tell of data."""
    for file, reason in reasons.items():
        counts.overview.of(file).unread[reason] += 1
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


def _without_documents(files: dict[str, list[str]], ignored: list[str]) -> dict[str, list[str]]:
    """Rows beside documents, which are no rows: those are not read. Where there is nothing else they stay, and are
    refused with what their data is for."""
    rows = {split: [one for one in some if extension(one) not in DOCUMENTS] for split, some in files.items()}
    if not all(rows.values()):
        return files
    ignored += [one for some in files.values() for one in some if extension(one) in DOCUMENTS]
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
        elif isinstance(row.value, str):
            yield replace(row, value=cleaned(row.value, altered))
        else:
            try:
                value = cleaned_row(row.value, altered)
            except RecursionError:
                yield RowError("too_deep", f"{row.where}: nested too deep; flat fields are needed")
                continue
            yield replace(row, value=value)


class _Ids:
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


def _kept(
    rows: Iterable[Row | RowError],
    kind: Kind,
    parse: Format | Parse | None,
    bad: BadRows | None,
    counts: Counts,
    ignore_keys: Collection[str],
    ids: _Ids,
    screening: Screening,
) -> Iterator[Record]:
    """The usable records of a split's rows; everything else is counted, errors in ``bad`` where they end the run."""
    seen: set[bytes] = set()
    for row in rows:
        counts.read += 1
        of = counts.overview.read(row)
        try:
            record = _record(row, kind, parse, ignore_keys)
            key = content_key(record)
            if key in seen and screening.deduplicate != "off":
                raise RowError("duplicate", f"{record.source}: says the same as an earlier row")
            if refusal := screening.refused(record, of.languages):
                raise RowError(*refusal)
        except RowError as error:
            if bad is not None and error.reason not in HARMLESS:
                bad.add(error)
            counts.skipped[error.reason] += 1
            if not error.whole_file:
                of.skipped[error.reason] += 1
            counts.first.setdefault(error.reason, str(error))
            continue
        seen.add(key)
        counts.used += 1
        assert isinstance(row, Row)
        counts.overview.use(row, record)
        ids.see(row, record)
        yield record


def _record(row: Row | RowError, kind: Kind, parse: Format | Parse | None, ignore_keys: Collection[str]) -> Record:
    if isinstance(row, RowError):
        raise row
    record = parse_row(row, kind, parse, ignore_keys)
    if record is None:
        raise RowError("left_out", f"{row.where}: left out by the format's function")
    if isinstance(record, Document) and not record.text.strip():
        raise RowError("empty_text", f"{row.where}: no text")
    record = replace(record, file=row.file)
    if isinstance(record, Document) and row.parts:
        record = replace(record, parts=row.parts)
    if isinstance(record, Comparison) and len(set(record.ranks)) == 1:
        raise RowError("all_tied", f"{row.where}: all ranks are equal, which says nothing about better and worse")
    return record


def _check(counts: Counts, path: Any, max_error_rate: float) -> None:
    bad = [told for reason, told in counts.first.items() if reason not in HARMLESS]
    first = f"; the first: {bad[0]}" if bad else ""
    if counts.used == 0:
        raise UserError(f"data.path={path}: no usable row ({counts}){first}")
    if counts.errors > max_error_rate * counts.read:
        what = counts.overview.whole.noun
        raise UserError(
            f"data.path={path}: {counts.errors} of {counts.read} {what} are bad, more than "
            f"data.max_error_rate={max_error_rate:g} ({counts}){first}"
        )

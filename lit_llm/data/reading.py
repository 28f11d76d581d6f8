"""Rows to records with every row accounted for: read = used + skipped, by reason."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from lit_llm.data.bad_rows import BadRows
from lit_llm.data.cells import with_cells
from lit_llm.data.charsets import AUTO
from lit_llm.data.columns import Columns
from lit_llm.data.documents.needs import KINDS as DOCUMENTS
from lit_llm.data.encodings import checked_encoding, holds_utf8
from lit_llm.data.filters import Record, cleaned, cleaned_row, content_key, group_key, share, without_overlap
from lit_llm.data.formats import Format, Kind, Parse, find_format, parse_row
from lit_llm.data.found_encodings import FoundEncodings
from lit_llm.data.options import check_fractions
from lit_llm.data.overview import Overview
from lit_llm.data.provenance import cut, joined, located
from lit_llm.data.quality import screening as quality
from lit_llm.data.quality.screening import Screening
from lit_llm.data.row_errors import RowError
from lit_llm.data.sources import Row, extension, read_rows, resolve, why_not_read
from lit_llm.data.splits import NAMES, UNDIVIDED
from lit_llm.errors import UserError
from lit_llm.records import Comparison, Document, Labelled

log = logging.getLogger(__name__)
Expand = Callable[[Row], Iterable[Row | RowError]]
"""Makes several rows of one, each counted by itself: a ranking has a label for each of its completions."""
HARMLESS = ("duplicate", "in_heldout", "empty_text", "all_tied", "left_out", "unlabelled", *quality.REASONS)
"""Reasons that are no error: they never stop a run and do not count against ``max_error_rate``."""
FEW_TEXTS = 20  # fewer than these are cut into blocks, so that a part can be held out
BLOCKS = 200  # about so many in all
BLOCK_CHARACTERS = 400, 20_000
IDS = ("id", "_id", "uuid", "uid")


@dataclass
class Counts:
    """read = used + sum(skipped.values()), always. Rows of ignored files are not read."""

    read: int = 0
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    ignored_files: int = 0
    altered: Counter[str] = field(default_factory=Counter)  # places in the rows read, by ``filters.ALTERED``
    first: dict[str, str] = field(default_factory=dict)  # by reason, the message of the first row that is skipped
    repeated_ids: int = 0  # rows used whose id an earlier row has with other content
    languages: Counter[str] = field(default_factory=Counter)  # rows by language, where ``data.languages`` is given
    encodings: Counter[str] = field(default_factory=Counter)  # texts by the encoding that was found out
    overview: Overview = field(default_factory=Overview)  # the same by kinds of files

    def drop(self, reason: str, told: Mapping[int, str]) -> None:
        """Rows that were used so far are skipped: their numbers, and what a user is told of each."""
        if told:
            self.used -= len(told)
            self.skipped[reason] += len(told)
            self.first.setdefault(reason, next(iter(told.values())))

    def as_dict(self) -> dict[str, Any]:
        found = {"read": self.read, "used": self.used, "skipped": dict(sorted(self.skipped.items()))}
        more = {"ignored_files": self.ignored_files, "altered": dict(self.altered), "repeated_ids": self.repeated_ids}
        more["languages"] = dict(sorted(self.languages.items()))
        more["encodings"] = dict(self.encodings)
        return found | {name: value for name, value in more.items() if value}

    @property
    def errors(self) -> int:
        return sum(n for reason, n in self.skipped.items() if reason not in HARMLESS)

    def __str__(self) -> str:
        parts = ", ".join(f"{reason} {n}" for reason, n in self.skipped.most_common())
        return f"{self.read} rows read, {self.used} used" + (f", skipped: {parts}" if parts else "")


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
    if ignored:
        names = sorted({Path(file).name for file in ignored})
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        log.warning("data.path=%s: files that are not read: %s%s", path, ", ".join(names[:8]), more)
    for file in dict.fromkeys(ignored):
        counts.overview.of(file).unread[why_not_read(file)] += 1
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
    renaming.check_seen()
    if bad is not None:
        bad.end(path)
    if ids.first:
        log.warning(
            "data.path=%s: %d rows have the id of another row and other content; the first: %s",
            *(path, ids.repeated, ids.first),
        )
    counts.repeated_ids = ids.repeated
    counts.languages = counts.overview.whole.languages
    counts.encodings = encodings.tell(path)
    _check(counts, path, max_error_rate)
    divided = _held_out(splits, kind, counts, validation_fraction, test_fraction, screening)
    counts.overview.divide(divided)
    return Records(divided, counts)


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
        of = counts.overview.read()
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
        raise UserError(
            f"data.path={path}: {counts.errors} of {counts.read} rows are bad, more than "
            f"data.max_error_rate={max_error_rate:g} ({counts}){first}"
        )


def _held_out(
    splits: dict[str, list[Record]],
    kind: Kind,
    counts: Counts,
    validation: float,
    test: float,
    screening: Screening,
) -> dict[str, list[Record]]:
    """Hold out what the files do not, and take out of training what a held-out part has too."""
    named = {name: records for name, records in splits.items() if name != UNDIVIDED}
    train = [*splits.get(UNDIVIDED, []), *named.pop("train", [])]
    heldout = [record for records in named.values() for record in records]
    if heldout:
        kept, dropped = without_overlap(train, heldout)
        still = set(map(id, kept)) if dropped else set()
        for record in train if dropped else ():
            if id(record) not in still:
                counts.overview.leave_out(record, "in_heldout")
        train = kept
        counts.used -= dropped
        counts.skipped["in_heldout"] += dropped
        counts.skipped += Counter()  # drops the zero
    train = _without(train, "near_heldout", screening.near_heldout(train, heldout), counts)
    train = _without(train, "near_duplicate", screening.near_duplicates(train), counts)
    has_test = any(name.startswith("test") for name in named)
    wanted = {} if "validation" in named else {"validation": validation}
    wanted |= {} if has_test else {"test": test}
    wanted = {name: fraction for name, fraction in wanted.items() if fraction > 0}
    if kind == "texts" and wanted and len(train) < FEW_TEXTS:
        return _carve_blocks(train, wanted, heldout, counts, screening) | named
    carved = _carve(train, wanted, screening.groups(train)) if wanted else {"train": train}
    train = carved.get("train", [])
    heldout += [record for name, records in carved.items() if name != "train" for record in records]
    told = screening.holding_heldout(train, heldout)
    if train and len(told) == len(train):
        raise UserError(
            f"data.path: all {len(train)} rows to train on hold held-out items; the first: {told[0]}; hold out other "
            "rows, or set data.decontaminate_words=0, which trains them all the same"
        )
    return carved | {"train": _without(train, "decontaminated", told, counts)} | named


def _without(records: list[Record], reason: str, told: Mapping[int, str], counts: Counts) -> list[Record]:
    counts.drop(reason, told)
    for number in told:
        counts.overview.leave_out(records[number], reason)
    return [record for number, record in enumerate(records) if number not in told]


def _carve(
    records: list[Record], wanted: Mapping[str, float], key_of: Callable[[Record], bytes] = group_key
) -> dict[str, list[Record]]:
    """Split by the hash of what belongs together; each part gets something as soon as there is enough for all."""
    groups: dict[bytes, list[Record]] = {}
    for record in records:
        groups.setdefault(key_of(record), []).append(record)
    homes: dict[bytes, str] = {}
    for key in groups:
        at, homes[key] = share(key), "train"
        for name, fraction in wanted.items():
            if 0 <= at < fraction:
                homes[key] = name
            at -= fraction
    parts = ("train", *wanted)
    if len(groups) >= len(parts):
        for name in parts:  # a small corpus: the fullest part gives its first by hash
            if name not in homes.values():
                fullest = max(parts, key=lambda p: sum(h == p for h in homes.values()))
                homes[min(k for k, h in homes.items() if h == fullest)] = name
    else:
        homes = dict.fromkeys(groups, "train")
    split: dict[str, list[Record]] = {name: [] for name in parts}
    for key, members in groups.items():
        split[homes[key]] += members
    return {name: members for name, members in split.items() if members}


def _carve_blocks(
    texts: Sequence[Record],
    wanted: Mapping[str, float],
    heldout: Sequence[Record],
    counts: Counts,
    screening: Screening,
) -> dict[str, list[Record]]:
    """Holds out blocks of few texts; what is trained is as whole as that leaves it.

    A text ends where its end token is, so neighbouring blocks that are trained are one text again. A block that holds
    what is held out is dropped by itself: no row is, so it is counted as a place that was altered.
    """
    cut = blocks([text for text in texts if isinstance(text, Document)])
    split = _carve([block for parts in cut for block in parts], wanted)
    heldout = [*heldout, *(block for name, members in split.items() if name != "train" for block in members)]
    told = screening.holding_heldout(split["train"], heldout)
    if told:
        counts.altered["held_out_passages"] += len(told)
        counts.first.setdefault("held_out_passages", next(iter(told.values())))
    trained = {id(block) for number, block in enumerate(split["train"]) if number not in told}
    runs = [list(run) for parts in cut for kept, run in groupby(parts, lambda block: id(block) in trained) if kept]
    split = split | {"train": [joined(run) for run in runs]}
    return {name: [located(block) for block in parts if isinstance(block, Document)] for name, parts in split.items()}


def blocks(documents: Sequence[Document]) -> list[list[Document]]:
    """Few long texts (one book, say) in blocks that end at blank lines, lines or blanks, where possible.

    Returns:
        For each text its blocks, about ``BLOCKS`` over all texts.
    """
    total = sum(len(d.text) for d in documents)
    size = min(max(total // BLOCKS, BLOCK_CHARACTERS[0]), BLOCK_CHARACTERS[1])
    return [list(_blocks(document, size)) for document in documents]


def _blocks(document: Document, size: int) -> Iterator[Document]:
    begin = 0
    while begin < len(document.text):
        end = _block_end(document.text, begin, size)
        part = cut(document, begin, end)
        if part.text.strip():
            yield part
        begin = end


def _block_end(text: str, begin: int, size: int) -> int:
    if len(text) - begin <= size + size // 2:
        return len(text)
    for ending in ("\n\n", "\n", " "):
        found = text.rfind(ending, begin + size // 2, begin + size)
        if found >= 0:
            return found + len(ending)
    return begin + size

"""One portion of a corpus becomes shards: read, checked, tokenized and written, in a process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lit_llm.data import stores, token_cache
from lit_llm.data.bad_rows import BadRows
from lit_llm.data.column_map import as_mapping
from lit_llm.data.file_rows import Row, read_part
from lit_llm.data.filters import share
from lit_llm.data.options import TextOptions
from lit_llm.data.quality import screening
from lit_llm.data.quality.rules import rules
from lit_llm.data.reading import Last, Reading
from lit_llm.data.row_errors import RowError
from lit_llm.data.shards.portions import Portion
from lit_llm.data.shards.shard import Shard, Writer, opened
from lit_llm.data.token_cache import content_hash
from lit_llm.data.token_files import documents
from lit_llm.errors import UserError
from lit_llm.records import Document
from lit_llm.runtime.atomic_files import cannot_be_written
from lit_llm.runtime.code_key import code_key
from lit_llm.runtime.source_files import module_file, modules_of
from lit_llm.text.tokenizer import Tokenizer

READING = (
    "archives", "arrow_files", "cells", "charsets", "column_map", "columns", "compression", "documents", "encodings",
    "file_rows", "formats", "json_rows", "reading", "row_keys", "streams", "tables", "token_files",
)  # fmt: skip
CODE = (*token_cache.CODE, *screening.CODE, "lit_llm.data.shards", *(f"lit_llm.data.{name}" for name in READING))
"""What reads rows, makes shards of them and decides what of them is trained. Its hash is part of every key: where rows
are in memory their texts are, and tell by themselves that they are read otherwise."""
REMEMBERED = 250_000  # texts of a portion whose duplicates are found at once; ``fates.py`` finds all others: 30 MB
SHARD_CHARACTERS = 48 * 2**20  # of a file that one process reads, after which a shard is closed and another begun
AT_ONCE = 500_000  # characters of texts that are tokenized together
LONG = 2 * 2**20  # characters of a text above which it is tokenized in pieces that end with a line: what the library
# holds of a text while it makes tokens is a hundred times the text


@dataclass(frozen=True)
class Maker:
    """How rows become shards.

    ``held_out`` is the share of the rows that may be held out, by their hash; 0 where files say which are.
    """

    options: TextOptions
    split: str
    tokenizer: Tokenizer
    folder: Path  # where shards are
    held_out: float

    def key(self) -> str:
        """Hash of what rows become, besides the rows."""
        options = self.options
        function = options.format if options.format and "." in options.format else None
        source = module_file(modules_of(function)) if function else None
        parameters = [
            code_key(*CODE), self.split, options.format, source and hashlib.sha256(source.read_bytes()).hexdigest(),
            sorted(as_mapping(options.columns).items()), sorted(map(str, options.ignore_keys)), options.clean,
            options.encoding, rules(options.quality), sorted(options.languages), options.deduplicate == "off",
            self.held_out, self.tokenizer.beginning, self.tokenizer.document_end_id,
        ]  # fmt: skip
        return content_hash([self.tokenizer.fingerprint(), *map(repr, parameters)])


@dataclass(frozen=True)
class Task:
    """A portion to make shards of. ``key``: ``Maker.key``, made once."""

    number: int
    portion: Portion
    key: str
    only_check: bool = False  # the rows: there are bad ones, which end the run

    def folder(self, at: Path, shard: int) -> Path:
        """Where a shard of it is."""
        name = content_hash([self.key, self.portion.content, str(shard)])[:32]
        return at / name[:2] / name


@dataclass(frozen=True)
class Made:
    """What became of a portion."""

    shards: tuple[Path, ...]
    bad: BadRows | None = None  # of rows that end the run: then there are no shards
    reused: int = 0  # of the shards, those that were there
    rows: Mapping[str, Any] = field(default_factory=dict)  # ``rows_told``


def make(maker: Maker, task: Task) -> Made:
    """The shards of a portion: those that are there are kept, if every byte is right; the others are made.

    Raises UserError for a disk that is full, an option of reading that does not fit the rows, and a file that is
    written to meanwhile.
    """
    stores.use(maker.options.cache_dir)
    there = list(_there(maker, task))
    if there and there[-1].facts["last"]:
        folders = [task.folder(maker.folder, number) for number in range(len(there))]
        return Made(tuple(folders), reused=len(there), rows=there[-1].facts["rows"])
    reading = reading_of(maker.options, task.portion)
    rows = TokenRows(task.portion, maker.tokenizer) if task.portion.tokens else None
    records = reading.records(rows or rows_of(task.portion, reading), maker.split)
    known = sum(shard.documents for shard in there)
    for _ in zip(range(known), records, strict=False):  # their tokens are on the disk; their counts are needed
        pass
    folders = [task.folder(maker.folder, number) for number in range(len(there))]
    batch = _Batch(maker)
    writer: Writer | None = None
    try:
        for record in records:
            if reading.bad or task.only_check:
                continue  # nothing will be trained
            assert isinstance(record, Document)
            if writer is None:
                writer = Writer(task.folder(maker.folder, len(folders)), batch.dtype)
            assert reading.last is not None
            batch.add(record, reading.last, None if rows is None else rows.ids)
            if batch.size >= AT_ONCE:
                batch.write_to(writer)
            if writer.characters >= SHARD_CHARACTERS and task.portion.part is None:
                task.portion.check_unchanged()
                writer.commit({"last": False})
                folders.append(writer.folder)
                writer = None
        task.portion.check_unchanged()
        if reading.bad or task.only_check:
            if writer is not None:
                writer.drop()
            return Made((), bad=reading.bad, rows=rows_told(reading))
        if writer is None:  # it says the counts, if no more
            writer = Writer(task.folder(maker.folder, len(folders)), batch.dtype)
        batch.write_to(writer)
        writer.commit({"last": True, "rows": rows_told(reading)})
    except BaseException as error:
        if writer is not None:
            writer.drop(error)
        if isinstance(error, OSError) and (told := cannot_be_written(maker.folder, error)):
            raise told from error
        raise
    return Made((*folders, writer.folder), reused=len(there), rows=rows_told(reading))


def _there(maker: Maker, task: Task) -> Iterator[Shard]:
    """The shards of a portion that an earlier run made, in their order, up to the first that is not whole."""
    for number in count():
        folder = task.folder(maker.folder, number)
        shard = opened(folder)
        if shard is None or not shard.is_whole():  # what is there of it goes when another takes its name
            return
        yield shard
        if shard.facts["last"]:
            return


def reading_of(options: TextOptions, portion: Portion | None = None) -> Reading:
    """How rows are read, of a portion or of all; ids that come again are not looked for."""
    clean = options.clean and not (portion and portion.tokens)  # which stay as they are
    return Reading("texts", replace(options, clean=clean), remembered=REMEMBERED if portion else None)


class TokenRows:
    """The documents of a portion of files of tokens as rows with their texts; ``ids``: the last one's tokens."""

    def __init__(self, portion: Portion, tokenizer: Tokenizer) -> None:
        self._portion, self._tokenizer = portion, tokenizer
        self.ids: list[int] = []

    def __iter__(self) -> Iterator[Row | RowError]:
        (file, index), part = self._portion.files, self._portion.part
        assert part is not None
        found, size = documents(file, index), self._tokenizer.vocab_size
        around = {*self._tokenizer.beginning, self._tokenizer.document_end_id}
        for number in range(part.begin, part.end):
            ids = found.ids(number).tolist()
            if ids and not 0 <= min(ids) <= max(ids) < size:
                beyond = max(ids) if max(ids) >= size else min(ids)
                raise UserError(
                    f"{file}: document {number + 1} has the token {beyond}, and the tokenizer has {size:,}: the tokens "
                    "were made with another one (init_from, tokenizer.folder)"
                )
            begin, end = 0, len(ids)
            while begin < end and ids[begin] in around:  # each document gets those of its own
                begin += 1
            while end > begin and ids[end - 1] in around:
                end -= 1
            self.ids = ids[begin:end]
            yield Row(self._tokenizer.decode(self.ids, skip_special=False), file, number + 1)


def rows_of(portion: Portion, reading: Reading, tokenizer: Tokenizer | None = None) -> Iterable[Row | RowError]:
    """Every row of a portion. ``tokenizer``: for files of tokens."""
    if portion.tokens:
        assert tokenizer is not None
        return TokenRows(portion, tokenizer)
    if portion.part is None:
        return reading.rows(portion.files, 1)
    return read_part(portion.files[0], portion.part, reading.encoding)


def read_again(maker: Maker, portion: Portion, shard: Shard, numbers: Sequence[int]) -> dict[int, Document]:
    """Some of a shard's documents with their texts, from the corpus itself: where so few are held out by their hash
    that others are taken in their place, the shard keeps no text of these. Raises UserError where one is not there."""
    reading = reading_of(replace(maker.options, on_error="skip"), portion)  # what is bad is told of elsewhere
    about = shard.about()[list(numbers)]
    places = [(shard.files[int(one["file"])], int(one["line"]), bytes(one["key"])) for one in about]
    found = list(reading.again(rows_of(portion, reading, maker.tokenizer), places))
    if len(found) != len(numbers):
        raise UserError(
            f"{portion.files[0]}: is not what it was when its tokens were made; start again when nobody writes to it"
        )
    return {number: one for number, one in zip(numbers, found, strict=True) if isinstance(one, Document)}


def rows_told(reading: Reading) -> dict[str, Any]:
    """What became of the rows, as JSON takes it."""
    encodings = reading.encodings
    return {"counts": reading.counts.plain(), "columns": reading.columns.seen(), "encodings": encodings.files,
            "pages": encodings.pages}  # fmt: skip


def join_rows(reading: Reading, told: Mapping[str, Any]) -> None:
    """Adds what became of the rows of a portion (``rows_told``) to those of the portions before it."""
    reading.counts.join(told["counts"])
    reading.columns.join(told["columns"])
    for encoding, names in told["encodings"].items():
        reading.encodings.files.setdefault(encoding, []).extend(names)
    reading.encodings.pages += told.get("pages", [])


class _Batch:
    """Documents that are tokenized together."""

    def __init__(self, maker: Maker) -> None:
        self._maker, self._tokenizer = maker, maker.tokenizer
        self.dtype = np.uint16 if self._tokenizer.vocab_size <= 2**16 else np.uint32
        self._begin = np.array(self._tokenizer.beginning, np.uint32)
        self._end = np.array([self._tokenizer.document_end_id], np.uint32)
        self._documents: list[tuple[Document, Last, list[int] | None]] = []
        self.size = 0  # characters

    def add(self, document: Document, last: Last, ids: list[int] | None) -> None:
        """``ids``: its tokens, where they are known."""
        self._documents.append((document, last, ids))
        self.size += len(document.text)

    def write_to(self, writer: Writer) -> None:
        pieces = [_pieces(document.text) if known is None else [] for document, _, known in self._documents]
        encoded = iter(self._tokenizer.encode_arrays([piece for some in pieces for piece in some]))
        for (document, last, known), some in zip(self._documents, pieces, strict=True):
            parts = [np.array(known, np.uint32)] if known else [next(encoded) for _ in some]
            ids = np.concatenate([self._begin, *parts, self._end])
            writer.write(document, last, ids, share(last.key) < self._maker.held_out)
        self._documents, self.size = [], 0


def _pieces(text: str) -> list[str]:
    """A text, or pieces of a long one, cut behind a line where there is one."""
    if len(text) <= LONG:
        return [text]
    found, begin = [], 0
    while len(text) - begin > LONG:
        end = text.rfind("\n", begin + LONG // 2, begin + LONG) + 1 or begin + LONG
        found.append(text[begin:end])
        begin = end
    return [*found, text[begin:]]

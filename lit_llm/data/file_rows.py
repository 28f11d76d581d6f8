"""From files to rows, one at a time.

Nothing is judged here but whether a row can be read at all; what cannot is yielded as a ``RowError``, so that the
reader of rows decides: stop with all that is wrong, or count and go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lit_llm.data.archives import ARCHIVES, members
from lit_llm.data.arrow_files import ARROW, read_arrow
from lit_llm.data.charsets import AUTO, decoded
from lit_llm.data.compression import COMPRESSED
from lit_llm.data.documents.contents import SEEN, kind_seen, no_text_file, nothing_in
from lit_llm.data.documents.needs import KINDS as DOCUMENTS
from lit_llm.data.documents.reading import Text, read_documents
from lit_llm.data.encodings import no_text, undecodable
from lit_llm.data.json_rows import read_json, read_lines
from lit_llm.data.projects import is_project, read_project
from lit_llm.data.row_errors import RowError, damaged
from lit_llm.data.stores import Ahead, is_remote, on_disk
from lit_llm.data.streams import Part, first_bytes, open_bytes, read_bytes
from lit_llm.data.tables import TABLES, Lines, read_table
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest

TEXTS = (".txt", ".text", ".md", ".markdown", ".rst")
LINES = (".jsonl", ".ndjson")
FORMATS = (*TEXTS, *LINES, ".json", *TABLES, ".parquet", *ARROW, *DOCUMENTS, *ARCHIVES)
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg")
_MEDIA = (".mp3", ".wav", ".m4a", ".ogg", ".mp4", ".mov", ".avi", ".mkv")
PART_OF_PAGE = "a part of a page of the web"
FOREIGN = {
    ".doc": "Word's form before 2007; save it as .docx",
    ".xls": "Excel's form before 2007; save it as .xlsx",
    ".ppt": "PowerPoint's form before 2007; save it as .pptx",
    **dict.fromkeys((".pages", ".numbers", ".key", ".mobi", ".azw3", ".djvu"), "a document; save it as .docx or .pdf"),
    **dict.fromkeys((".xml", ".tex"), "markup; save its text as .txt"),
    **dict.fromkeys((".yaml", ".yml", ".toml"), "settings; save rows as .jsonl"),
    ".idx": "an index of tokens; name the file itself as data.path",
    ".bin": "no rows of text; of Megatron's tokens name the .idx or .bin itself as data.path, save rows as .jsonl",
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".pt"), "no rows of text; save them as .jsonl"),
    **dict.fromkeys((".7z", ".rar"), "an archive; unpack it and give the folder"),
    **dict.fromkeys(_PICTURES, "a picture; recognize its text (OCR)"),
    **dict.fromkeys(_MEDIA, "sound or film; write down what is said"),
    **dict.fromkeys((".js", ".css", ".map", ".woff", ".woff2", ".ttf", ".ico"), PART_OF_PAGE),
}
"""Formats that are known, and not read: what they are, and what to do."""
ENDLESS = "a name without an ending gets that of what the file is, such as .txt"
WITHOUT_ROWS = "without_rows"
"""Why a file is not read in which nothing is, such as an empty shard among others."""
_MAY_BE_OTHERS = ("", ".doc", ".xls", ".ppt")
"""Endings of names, or none, under which other kinds of file are found: pages and RTF are saved as .doc."""
PIECE = 2**20  # bytes of a long text that are a row, where it is read in parts
_UNITS = {".json": "item", **dict.fromkeys((".parquet", *ARROW), "row")}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: a dict, or the text of a whole text file."""

    value: dict[str, Any] | str
    file: str
    line: int  # from 1: the line of a .jsonl, the item of a .json, the row of a .parquet, the task of a project;
    # of a table the line where the row begins
    named: str = ""  # how messages name it, where file and line do not say it
    parts: tuple[tuple[int, str], ...] = ()  # of a document: where its pages or sections begin, and their names
    encoding: str = ""  # of a text, where it was found out

    def holding(self, value: dict[str, Any] | str) -> Row:
        """The row with another value: ``dataclasses.replace``, in a third of the time."""
        return Row(value, self.file, self.line, self.named, self.parts, self.encoding)

    @property
    def where(self) -> str:
        return self.named or place(self.file, self.line)


def place(file: str, line: int) -> str:
    """How messages name a row: ``data.jsonl:12``, ``data.json:item 12``."""
    unit = _UNITS.get(extension(file), "")
    return f"{file}:{unit} {line}" if unit else f"{file}:{line}"


@cache
def extension(file: str) -> str:
    """The file's format, a compression left out: ``a.jsonl.gz`` is ``.jsonl``."""
    path = Path(file.partition("?")[0] if is_remote(file) else file)
    return Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else path.suffix.lower()


def known_extension(file: str) -> str:
    """The format of a file by its extension, or a UserError that lists what is accepted."""
    found = extension(file)
    if found not in FORMATS:
        near = nearest(found, FORMATS)
        hint = f"; did you mean {near}?" if near else ""
        hint = f"; {found} is {FOREIGN[found]}" if found in FOREIGN else hint if found else f"; {ENDLESS}"
        hint = f"; it is {seen}" if (seen := by_content(file)) else hint
        raise UserError(f"{file}: extension {found or '(none)'} is unknown; accepted: {', '.join(FORMATS)}{hint}")
    return found


def by_content(file: str) -> str:
    """What a file is whose name says too little, or another thing, and what to do; "" where its content tells nothing
    more. Only files of this disk are opened."""
    if is_remote(file) or extension(file) not in _MAY_BE_OTHERS:
        return ""
    try:
        data = first_bytes(file, SEEN)
    except RowError:
        return ""
    seen = kind_seen(data)
    if seen is not None:
        remedy = "rename it to .csv or .tsv" if (extension(file), seen.ending) == (".xls", ".txt") else seen.remedy
        return "" if seen.ending == ".doc" else f"{seen.what} by its content; {remedy}"
    return nothing_in(data)


def read_rows(
    files: Sequence[str],
    encoding: str = "utf-8",
    cache_dir: str | Path = "outputs/cache",
    processes: int | None = None,
) -> Iterator[Row | RowError]:
    """Every row of the files in order; what cannot be read comes as a ``RowError`` in its place.

    Args:
        encoding: of texts and JSON, by its name in Python's ``codecs``; ``auto`` finds out that of each text and table,
            and JSON is UTF-8.
        cache_dir: where the text of documents is kept.
        processes: that read documents; None: as many as there are processors.
    """
    documents = [file for file in files if extension(file) in DOCUMENTS]
    texts = read_documents(documents, [extension(file) for file in documents], encoding, cache_dir, processes)
    with Ahead(files) as ahead:
        for number, file in enumerate(files):
            ahead.reads(number)
            found = False
            try:
                for row in _rows_of(file, encoding, texts):
                    found = True
                    if isinstance(row, RowError):
                        row.file = file
                    yield row
            except RowError as error:  # the file itself: damaged, a pointer, unreadable
                says = error.reason != "empty_file" and _is_empty(file)
                bad = RowError("empty_file", f"{file}: empty: it has no byte") if says else error
                bad.file, bad.whole_file = file, True
                yield bad
                continue
            if not found and extension(file) in FORMATS:
                bad = RowError(WITHOUT_ROWS, f"{file}: no row in it")
                bad.file, bad.whole_file = file, True
                yield bad


def _is_empty(file: str) -> bool:
    return not is_remote(file) and Path(file).is_file() and not Path(file).stat().st_size


def read_part(file: str, part: Part, encoding: str) -> Iterator[Row | RowError]:
    """The rows of some of a file's lines: of a .jsonl its own; of a text pieces of about ``PIECE`` bytes.

    Args:
        encoding: as of ``read_rows``, one that has ASCII's line ends. ``auto``: UTF-8, also of texts.
    """
    encoding = "utf-8" if encoding == AUTO else encoding
    rows = _pieces(file, part, encoding) if extension(file) in TEXTS else _rows(file, read_lines(file, encoding, part))
    try:
        for row in rows:
            if isinstance(row, RowError):
                row.file = file
            yield row
    except RowError as bad:
        bad.file, bad.whole_file = file, True
        yield bad


def _pieces(file: str, part: Part, encoding: str) -> Iterator[Row | RowError]:
    with open_bytes(file) as stream:
        stream.seek(part.begin)
        data = stream.read(part.end - part.begin)
    if not part.begin:
        _check_text(file, data)
    begin, line = 0, part.line
    while begin < len(data):
        end = len(data) if len(data) - begin <= PIECE + PIECE // 2 else piece_end(data, begin)
        piece = data[begin:end]
        try:
            text = piece.decode(encoding)
            yield Row(text.removeprefix("\ufeff") if line == 1 else text, file, line)
        except UnicodeDecodeError as error:
            at = line + piece.count(b"\n", 0, error.start)
            yield undecodable(place(file, at), piece, error, encoding)
        begin, line = end, line + piece.count(b"\n")


def piece_end(data: bytes, begin: int) -> int:
    """Where a piece of a long text ends, at most ``PIECE`` bytes on: behind a blank line, a line, a blank, a letter."""
    for ending in (b"\n\n", b"\n", b" "):
        found = data.rfind(ending, begin + PIECE // 2, begin + PIECE)
        if found >= 0:
            return found + len(ending)
    end = begin + PIECE
    return next((at for at in range(end, end - 4, -1) if at >= len(data) or data[at] & 0xC0 != 0x80), end)


def _rows_of(file: str, encoding: str, texts: Iterator[Text | RowError]) -> Iterator[Row | RowError]:
    """``texts``: of the documents, in the order of the files."""
    if file.startswith("hub:"):
        yield from _read_hub(file)
    elif is_project(file):
        yield from (Row(value, file, task, named) for value, named, task in read_project(file))
    elif extension(file) in DOCUMENTS:
        text = next(texts)
        if isinstance(text, RowError):
            raise text
        yield Row(text.text, file, 1, file, text.parts, text.encoding)
    else:
        found = known_extension(file)
        yield from _READERS[found](file, "utf-8" if encoding == AUTO and found not in (*TEXTS, *TABLES) else encoding)


def _read_text(file: str, encoding: str) -> Iterator[Row | RowError]:
    data = read_bytes(file)
    _check_text(file, data)
    try:
        text, found = decoded(data, encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise undecodable(place(file, line), data, error, encoding) from None
    if (refused := no_text(file, text)) is not None:
        raise refused
    yield Row(text, file, 1, encoding=found)


def _check_text(file: str, data: bytes | bytearray) -> None:
    """Raises RowError for another kind of file that is named as a text, of which an encoding could make letters."""
    if said := no_text_file(data):
        raise RowError("other_kind", f"{file}: {said}")


def _read_parquet(file: str, encoding: str) -> Iterator[Row | RowError]:  # noqa: ARG001  (it says itself)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{file}: parquet needs pyarrow; pip install 'lit-llm[parquet]'") from None
    if Path(file).suffix.lower() in COMPRESSED:
        raise UserError(f"{file}: a packed parquet file; unpack it first (parquet packs its columns itself)")
    open_bytes(file).close()  # a pointer in place of the file is called one
    try:
        number = 0
        place = on_disk(file)
        source = place if Path(place).is_file() else pyarrow.BufferReader(bytes(read_bytes(file)))  # in an archive
        with pyarrow.parquet.ParquetFile(source) as table:
            for batch in table.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(value, file, number)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(file, error, "not a readable parquet file") from None


def _read_archive(file: str, encoding: str) -> Iterator[Row | RowError]:  # noqa: ARG001  (its files say theirs)
    """Why it is not read as a folder: what is read is what ``resolve`` finds in it."""
    members(file)
    yield from ()


def _read_table(file: str, encoding: str) -> Iterator[Row | RowError]:
    lines, told = Lines(file, encoding), False
    for row in _rows(file, read_table(lines, tabs=extension(file) != ".csv")):
        if lines.found and not told and isinstance(row, Row):
            row, told = replace(row, encoding=lines.found), True  # one row says it for all
        yield row


def _read_lines(file: str, encoding: str) -> Iterator[Row | RowError]:
    return _rows(file, read_lines(file, encoding))


def _read_json(file: str, encoding: str) -> Iterator[Row | RowError]:
    return _rows(file, read_json(file, encoding))


def _rows(file: str, found: Iterable[tuple[int, dict[str, Any]] | RowError]) -> Iterator[Row | RowError]:
    for one in found:
        yield one if isinstance(one, RowError) else Row(one[1], file, one[0])


def _read_arrow(file: str, encoding: str) -> Iterator[Row | RowError]:  # noqa: ARG001  (it says itself)
    for number, value in enumerate(read_arrow(file), start=1):
        yield Row(value, file, number)


def _read_hub(name: str) -> Iterator[Row | RowError]:
    """``hub:owner/name`` with optional ``:configuration`` and ``#split`` (train by default), streamed."""
    try:
        import datasets
    except ImportError:
        raise UserError(f"{name}: the hub needs the datasets package; pip install 'lit-llm[hub]'") from None
    identifier, _, split = name.removeprefix("hub:").partition("#")
    identifier, _, configuration = identifier.partition(":")
    try:
        stream = datasets.load_dataset(identifier, configuration or None, split=split or "train", streaming=True)
        for number, value in enumerate(stream, start=1):
            yield Row(dict(value), name, number)
    except Exception as error:  # network, access rights, formats: the library raises many kinds
        what = " ".join(str(error).split())[:160]
        raise UserError(f"{name}: cannot be read from the hub ({type(error).__name__}: {what})") from None


_READERS: dict[str, Callable[[str, str], Iterator[Row | RowError]]] = {
    **dict.fromkeys(TEXTS, _read_text),
    **dict.fromkeys(LINES, _read_lines),
    ".json": _read_json,
    ".parquet": _read_parquet,
    **dict.fromkeys(ARCHIVES, _read_archive),
    **dict.fromkeys(TABLES, _read_table),
    **dict.fromkeys(ARROW, _read_arrow),
}

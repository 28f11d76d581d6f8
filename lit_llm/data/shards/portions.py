"""A corpus in portions of about 32 MiB, each of which one process reads: where they begin, and the hash of their bytes.

A ``.jsonl`` and a long text are cut at ends of lines; any other file is whole, small ones together. Borders depend on
the bytes alone: the same file has the same portions everywhere, and a file that grew at its end the same first ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from lit_llm.data.archives import home
from lit_llm.data.charsets import AUTO, wide
from lit_llm.data.compression import COMPRESSED
from lit_llm.data.documents.needs import KINDS as DOCUMENTS
from lit_llm.data.file_rows import LINES, PIECE, TEXTS, extension, piece_end
from lit_llm.data.row_errors import RowError
from lit_llm.data.stores import AHEAD, Ahead, is_remote, of, on_disk
from lit_llm.data.streams import MAX_LINE, Part, first_bytes
from lit_llm.data.tables import SAMPLED_BYTES, TABLES
from lit_llm.data.token_cache import content_hash
from lit_llm.data.token_files import IDX, documents, is_tokens
from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import NotWritten, write_json
from lit_llm.runtime.file_hashes import identity_of, sha256_of
from lit_llm.runtime.progress_bars import Bar

PORTION = 32 * 2**20  # bytes
LONG_TEXT = 4 * 2**20  # bytes of a text file above which it is read in pieces, each a document
MOST_WHOLE = 64 * 2**20  # bytes of a file that is read whole: a .json, a packed text
MOST_FILES = {True: 64, False: 2000}  # in a portion; of documents, which are slow to read, and others
SETTLED = 2 * 10**9  # nanoseconds: a change within a clock's tick of another has the same time


class HasPortion(Protocol):
    """What is done with a portion."""

    @property
    def portion(self) -> Portion: ...


Task = TypeVar("Task", bound=HasPortion)
Stamp: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Portion:
    """Some files, or a part of one."""

    files: tuple[str, ...]
    part: Part | None  # of the only file
    content: str  # SHA-256 of bytes, names and place: rows are told by these
    size: int  # bytes on the disk
    tokens: bool = False  # a file of tokens and what names it; ``part`` counts documents
    stood: tuple[tuple[str, Stamp], ...] = ()  # of its files on the disk, when they were hashed
    digest: str = ""  # SHA-256 of the part's bytes

    def check_unchanged(self) -> None:
        """Raises UserError for a file that was written to since it was hashed: what was read of it is not what its
        hash says, and would be taken for that from then on. A file of lines may grow."""
        for file, stamp in self.stood:
            if _stamp(file) != stamp and not (self.digest and self._bytes_are_the_same(file)):
                raise UserError(f"{file}: was written to while it was read; start again when nobody writes to it")

    def _bytes_are_the_same(self, file: str) -> bool:
        assert self.part is not None
        found, left, last = hashlib.sha256(), self.part.end - self.part.begin, b""
        try:
            with Path(file).open("rb") as stream:
                stream.seek(self.part.begin)
                while data := stream.read(min(left, 2**20)):
                    found.update(data)
                    left, last = left - len(data), data[-1:]
        except OSError:
            return False
        # A last line without an end may have gone on when it was read.
        return found.hexdigest() == self.digest and (last == b"\n" or extension(file) in TEXTS)


def portions(files: Sequence[str], encoding: str, cache_dir: str | Path) -> Iterator[Portion]:
    """The portions of a corpus, in its order. Raises UserError for a file that cannot be read."""
    if is_tokens(files):
        yield from _of_tokens(files)
        return
    known: dict[str, tuple[str, Stamp]] = {}  # files on the disk, their hashes and what they were then
    together: list[str] = []
    size = 0
    total = sum(map(size_of, files))
    with Ahead(files) as ahead, Bar(total=total, desc="look at files", unit="B", unit_scale=True, leave=False) as bar:
        for number, file in enumerate(files):
            ahead.reads(number)
            if is_cut(file, encoding):
                yield from _whole(together, size, known)
                together, size = [], 0
                stood = _standing([file])
                for begin, end, line, digest in _parts(file, cache_dir, bar.update):
                    content = content_hash([file, str(line), digest])
                    yield Portion((file,), Part(begin, end, line), content, end - begin, stood=stood, digest=digest)
                continue
            if together and (
                size + size_of(file) > PORTION or len(together) >= MOST_FILES[extension(file) in DOCUMENTS]
            ):
                yield from _whole(together, size, known)
                together, size = [], 0
            _check_whole(file, encoding)
            together.append(file)
            size += size_of(file)
            bar.update(size_of(file))
        yield from _whole(together, size, known)


def _of_tokens(files: Sequence[str]) -> Iterator[Portion]:
    """Documents of files of tokens, by their numbers."""
    index, *others = files
    for file in [index] if index.endswith(IDX) else others:
        stood = _standing([file.removesuffix(IDX) + ".bin" if file.endswith(IDX) else file, index])
        found = documents(file, index)
        size = found.tokens.dtype.itemsize
        begin = 0
        while begin < len(found.bounds):
            most = int(found.bounds[begin, 0]) + PORTION // size
            end = max(begin + 1, int(np.searchsorted(found.bounds[:, 1], most, side="right")))
            some = found.bounds[begin:end]
            digest = hashlib.sha256(np.ascontiguousarray(found.tokens[int(some[0, 0]) : int(some[-1, 1])]).data)
            digest.update((some - some[0, 0]).tobytes())
            content = content_hash([file, str(begin), str(found.tokens.dtype), digest.hexdigest()])
            length = int(some[-1, 1] - some[0, 0]) * size
            yield Portion((file, index), Part(begin, end, begin), content, length, tokens=True, stood=stood)
            begin = end


def fetched_ahead(tasks: Iterator[Task]) -> Iterator[Task]:
    """Tasks that have a ``portion`` each; files of the next ones are fetched while one is worked at."""
    waiting: list[Task] = []
    with Ahead([]) as ahead:
        while True:
            while len(waiting) <= AHEAD and (task := next(tasks, None)) is not None:
                waiting.append(task)
                for file in task.portion.files:
                    ahead.wants(file)
            if not waiting:
                return
            yield waiting.pop(0)


def size_of(file: str) -> int:
    """Bytes on the disk or in a store; 0 of a member of an archive, whose bytes are the archive's."""
    if is_remote(file):
        return of(file).size
    with suppress(OSError):
        return Path(file).stat().st_size
    return 0


def is_cut(file: str, encoding: str) -> bool:
    """Whether several processes may read a file: lines, or a long text, in an encoding that has ASCII's line ends."""
    kind = extension(file)
    if kind not in (*LINES, *TEXTS) or Path(file.partition("?")[0]).suffix.lower() in COMPRESSED:
        return False
    if not is_remote(file) and not Path(file).is_file():
        return False
    return not _is_wide(encoding) and size_of(file) > (PORTION if kind in LINES else LONG_TEXT)


def _is_wide(encoding: str) -> bool:
    """Whether an encoding has other bytes for a line's end, a brace or a quote than ASCII (UTF-16)."""
    return encoding != AUTO and '\n{",'.encode(encoding) != b'\n{",'


def _check_whole(file: str, encoding: str) -> None:
    """Raises UserError for a file that has to be in memory whole, and is too large for that."""
    name, kind = Path(file.partition("?")[0]), extension(file)
    size, packed = size_of(file), name.suffix.lower() in COMPRESSED
    in_lines = kind in (*LINES, *TABLES)
    is_whole = kind in (".json", *TEXTS) or (in_lines and _is_wide(encoding))
    if size * (4 if packed else 1) > MOST_WHOLE and kind in TABLES and encoding == AUTO:
        with suppress(RowError):  # of a damaged file, which is told of when its rows are read
            is_whole = wide(first_bytes(file, SAMPLED_BYTES)) is not None  # as the reader of tables finds out
    if is_whole and size * (4 if packed else 1) > MOST_WHOLE:
        better = "a .jsonl, one object a line" if kind == ".json" else "a .txt in UTF-8, not packed"
        better = "it in UTF-8" if in_lines else better
        raise UserError(
            f"{file}: {size >> 20:,} MiB{' packed' if packed else ''}, to be in memory at once; give {better}, which "
            "is read in parts, or raise data.stream_above where memory allows"
        )


def _whole(files: Sequence[str], size: int, known: dict[str, tuple[str, Stamp]]) -> Iterator[Portion]:
    if not files:
        return
    said, homes = [], {file: home(file) for file in files}
    for file, around in homes.items():
        if around not in known:
            stamp = _stamp(around)  # before its bytes are read
            known[around] = _hash_of(around), stamp
        said += [file, known[around][0]]
    stood = tuple((file, known[file][1]) for file in dict.fromkeys(homes.values()) if not is_remote(file))
    yield Portion(tuple(files), None, content_hash(said), size, stood=stood)


def _standing(files: Sequence[str]) -> tuple[tuple[str, Stamp], ...]:
    return tuple((file, _stamp(file)) for file in files if not is_remote(file))


def _stamp(file: str) -> Stamp:
    """What changes when somebody writes to a file: its number, bytes and time; none of one that cannot be read."""
    try:
        return tuple(identity_of(Path(file))[1:4])
    except OSError:
        return ()


def _hash_of(file: str) -> str:
    if is_remote(file) and of(file).tag:
        return f"{of(file).size} {of(file).tag}"
    try:
        return sha256_of(Path(on_disk(file)))
    except OSError as error:
        return f"unreadable: {error.strerror}"  # told of when its rows are read


def _parts(file: str, cache_dir: str | Path, progress: Callable[[int], object]) -> list[tuple[int, int, int, str]]:
    """(first byte, last, first line, SHA-256) of each part; from the cache while the file is as it was."""
    name = hashlib.sha256(os.fsencode(Path(file).absolute())).hexdigest()[:32]
    place = Path(cache_dir) / "tokens" / "parts" / f"{name}.json"
    # A copy from a store is another file each time that it is fetched: the store says what it is.
    identity: list[Any] = [of(file).size, of(file).tag] if is_remote(file) else identity_of(Path(file))
    began = time.time_ns()
    rule = [PORTION, PIECE]
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["identity"] == identity and kept["rule"] == rule:
            progress(size_of(file))
            return [(int(a), int(b), int(c), str(d)) for a, b, c, d in kept["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or not whole
    try:
        found = list(_cut(Path(on_disk(file)), extension(file) in TEXTS, progress))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    if not is_remote(file) and identity_of(Path(file)) != identity:
        raise UserError(f"{file}: is being written while it is read; start again when it is whole")
    if of(file).tag if is_remote(file) else max(identity[3:]) < began - SETTLED:
        with suppress(NotWritten, OSError):  # a cache that cannot be written is done without
            place.parent.mkdir(parents=True, exist_ok=True)
            write_json(place, {"identity": identity, "rule": rule, "parts": found}, indent=None)
    return found


def _cut(file: Path, is_text: bool, progress: Callable[[int], object]) -> Iterator[tuple[int, int, int, str]]:
    begin, line = 0, 1
    with file.open("rb") as stream:
        while data := stream.read(PORTION + is_text):
            if is_text and len(data) > PORTION:  # the byte behind says whether a letter is cut
                data = data[: piece_end(data, PORTION - PIECE)]
                stream.seek(begin + len(data))
            digest, lines, end = hashlib.sha256(data), data.count(b"\n"), begin + len(data)
            last = data[-1:]
            while not is_text and last != b"\n" and (rest := stream.readline(MAX_LINE)):
                digest.update(rest)
                lines, end, last = lines + rest.count(b"\n"), end + len(rest), rest[-1:]
            yield begin, end, line, digest.hexdigest()
            progress(end - begin)
            begin, line = end, line + lines

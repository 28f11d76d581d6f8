"""Archives as folders: ``texts.zip/letters/may.pdf`` is a member, which is read without being unpacked.

Zip, and tar as it is or packed with gzip, bzip2, xz or zstandard; an archive within an archive too, to ``MAX_DEPTH``.
A packed tar is unpacked once as a whole, into a temporary file where it is long: its members are read in any order.
"""

from __future__ import annotations

import io
import lzma
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from lit_llm.data.compression import COMPRESSED, MAX_RATIO, WINDOW, decompressed, read_within
from lit_llm.data.documents.contents import Seen, document_in
from lit_llm.data.row_errors import RowError, in_one_line
from lit_llm.runtime.counted import counted

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")
OTHER_KIND = "other_kind"
"""The reason of a file that is named as an archive and is none."""
MAX_DEPTH = 3  # archives within each other
MAX_MEMBERS = 1_000_000
MAX_TOTAL = 64 * 2**30  # bytes of all members
MAX_INNER = 2 * 2**30  # bytes of an archive within another, which is held in memory
FEW = 1000  # members that any file may have; of more it has one for each two of its bytes at most
MAX_SPOOLED = 16 * 2**30  # bytes of a tar that is unpacked into a temporary file; a longer one is read from its start
IN_MEMORY = 64 * 2**20  # bytes from which on that file is on the disk
KEPT, MAX_KEPT = 8, 2 * 2**30  # archives that stay open, and the bytes of memory that they hold
_PACKED = {".tgz": ".gz", ".tbz": ".bz2", ".tbz2": ".bz2", ".txz": ".xz", ".tzst": ".zst"}
_open: OrderedDict[tuple[str, int, int], _Archive] = OrderedDict()  # the one that was asked for last is last
_open_lock = threading.Lock()
_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, NotImplementedError,
            RuntimeError, ValueError)  # fmt: skip


def is_archive(file: str) -> bool:
    path = PurePosixPath(file)
    if path.suffix.lower() in COMPRESSED:
        return PurePosixPath(path.stem).suffix.lower() == ".tar"
    return path.suffix.lower() in ARCHIVES


def home(file: str) -> str:
    """The file on the disk that a member is in; any other file itself."""
    for parent in reversed(Path(file).parents):
        if is_archive(str(parent)) and parent.is_file():
            return str(parent)
    return file


def members(file: str) -> list[str]:
    """The files in an archive by the paths that ``opened`` takes, in the archive's order. Raises RowError."""
    return list(_members(file, 1, _Sum(home(file))))


class _Sum:
    """How many members, of how many bytes, a file on the disk has, with those of the archives within it."""

    def __init__(self, file: str) -> None:
        self._file, self._size = file, Path(file).stat().st_size
        self._count = self._total = 0

    def add(self, count: int, total: int) -> None:
        """Raises RowError where no archive of texts is so."""
        self._count += count
        self._total += total
        _check(self._file, self._count, self._total, self._size)
        if self._count > max(FEW, self._size // 2):
            raise _bomb(self._file, self._count, self._total)


def _members(file: str, depth: int, so_far: _Sum) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise RowError("archive_bomb", f"{file}: archives within each other, deeper than {MAX_DEPTH}; unpack them")
    archive = _archive(file)
    so_far.add(len(archive.names), archive.total)
    for name in archive.names:
        path = f"{file}/{name}"
        try:
            yield from _members(path, depth + 1, so_far) if is_archive(name) else (path,)
        except RowError as error:
            if error.reason != OTHER_KIND:
                raise
            yield path  # which says so where it is read


def opened(file: str) -> BinaryIO | None:
    """The bytes of an archive's member as they are stored in it; None for what is in no archive. Raises RowError."""
    for parent in Path(file).parents:
        if is_archive(str(parent)):
            if parent.is_dir():
                return None
            if parent.is_file() or home(str(parent)) != str(parent):
                return _archive(str(parent)).open(str(Path(file).relative_to(parent)))
    return None


class _Archive:
    """An open archive and the names of its files. One thread reads at a time.

    Attributes:
        names: of its files.
        total: bytes of these.
        held: bytes of memory that it takes.
    """

    def __init__(self, file: str) -> None:
        self._file, self._lock, self.held = file, threading.Lock(), 0
        self._zip: zipfile.ZipFile | None = None
        document: Seen | None = None
        self._tar: tarfile.TarFile | None = None
        try:
            if PurePosixPath(file).suffix.lower() == ".zip":
                self._zip = zipfile.ZipFile(self._bytes())
                document = document_in(self._zip)
                entries = [(i.filename, i.file_size) for i in self._zip.infolist() if not i.is_dir()]
                stored: dict[str, str | tarfile.TarInfo] = {name: name for name, _ in entries}
                packed = max(1, sum(i.compress_size for i in self._zip.infolist()))
            else:
                self._tar = tarfile.open(fileobj=self._unpacked())  # noqa: SIM115  (kept open)
                entries, packed, stored = [], 0, {}
                total = 0
                for info in self._tar:  # links and devices are no data, and are not followed
                    total += info.size
                    _check(file, len(entries), total, 0)
                    if info.isfile():
                        entries.append((info.name, info.size))
                        stored[info.name] = info
        except _DAMAGED as error:
            # tarfile lists what each of its ways to open a file said.
            what = "no tar file, or a damaged one" if type(error) is tarfile.ReadError else in_one_line(error)
            raise RowError("damaged_archive", f"{file}: cannot be read as an archive ({what})") from None
        if document is not None:
            raise RowError(OTHER_KIND, f"{file}: {document.what} by its content; {document.remedy}")
        self.total = sum(size for _, size in entries)
        _check(file, len(entries), self.total, packed)
        for name, _ in entries:
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or "\0" in name:
                raise RowError(
                    "archive_path", f"{file}: its member {name[:80]!r} leaves the archive, as a trap does; pack it anew"
                )
        self._stored = {PurePosixPath(name).as_posix(): stored[name] for name, _ in entries}
        self.names = list(self._stored)

    def _bytes(self) -> BinaryIO:
        inner = opened(self._file)
        if inner is None:
            return Path(self._file).open("rb")
        data = read_within(inner, self._file, MAX_INNER)
        self.held = len(data)
        return io.BytesIO(data)

    def _unpacked(self) -> BinaryIO:
        """A tar without its compression, within the bounds of any compressed file."""
        suffix = PurePosixPath(self._file).suffix.lower()
        suffix = _PACKED.get(suffix, suffix)
        if suffix not in COMPRESSED:
            return self._bytes()
        spooled = _spooled(self._file, suffix)
        if spooled is None:
            return cast(BinaryIO, _Rewound(self._file, suffix))
        self.held = IN_MEMORY
        return spooled

    def open(self, name: str) -> BinaryIO:
        with self._lock:
            try:
                stored = self._stored[name]
                if self._zip is not None:
                    return cast(BinaryIO, self._zip.open(cast(str, stored)))
                assert self._tar is not None
                member = self._tar.extractfile(stored)
                assert member is not None, "links were left out"
                return _buffered(read_within(cast(BinaryIO, member), f"{self._file}/{name}", MAX_INNER))
            except KeyError:
                raise RowError("damaged_archive", f"{self._file}: no member {name!r}") from None
            except _DAMAGED as error:
                what = "encrypted; unpack it" if "encrypted" in str(error) else in_one_line(error)
                raise RowError("damaged_archive", f"{self._file}/{name}: cannot be read ({what})") from None


def _buffered(data: bytearray) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, io.BytesIO(data))))


def _packed(file: str, suffix: str) -> BinaryIO:
    packed = opened(file) or Path(file).open("rb")  # noqa: SIM115  (closed with what comes out)
    return decompressed(packed, file, suffix)


def _spooled(file: str, suffix: str) -> BinaryIO | None:
    """What comes out of a compressed file, in a temporary one that is gone when it is closed: going back is free.

    None where that takes more than ``MAX_SPOOLED`` bytes, or than half of what the disk has left.
    """
    most = min(MAX_SPOOLED, shutil.disk_usage(tempfile.gettempdir()).free // 2)
    found = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  (kept open)
    with _packed(file, suffix) as stream:
        while part := stream.read(2**20):
            try:
                fits = found.tell() + len(part) <= most and found.write(part) == len(part)
            except OSError:  # the disk is full
                fits = False
            if not fits:
                found.close()
                return None
    found.seek(0)
    return cast(BinaryIO, found)


class _Rewound(io.RawIOBase):
    """A compressed file from which one reads forward; to go back it begins anew."""

    def __init__(self, file: str, suffix: str) -> None:
        self._file, self._suffix, self._at = file, suffix, 0
        self._stream = _packed(file, suffix)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise OSError("the end of a compressed file is not known")
        target = offset + (self._at if whence == io.SEEK_CUR else 0)
        if target < self._at:
            self._stream.close()
            self._stream, self._at = _packed(self._file, self._suffix), 0
        while self._at < target and (skipped := len(self._stream.read(min(2**20, target - self._at)))):
            self._at += skipped
        return self._at

    def close(self) -> None:
        self._stream.close()
        super().close()


def _check(file: str, count: int, total: int, packed: int) -> None:
    if count > MAX_MEMBERS or total > MAX_TOTAL or (packed and total > WINDOW and total > MAX_RATIO * packed):
        raise _bomb(file, count, total)


def _bomb(file: str, count: int, total: int) -> RowError:
    what = f"{counted(count, 'member')} of {counted(total, 'byte')}"
    return RowError("archive_bomb", f"{file}: {what}; no archive of texts is so, a bomb is")


def _archive(file: str) -> _Archive:
    about = Path(home(file)).stat()
    key = (file, about.st_mtime_ns, about.st_size)  # a file that has changed is opened anew
    with _open_lock:
        if (found := _open.get(key)) is not None:
            _open.move_to_end(key)
            return found
    found = _Archive(file)
    with _open_lock:
        _open[key] = found
        while len(_open) > KEPT or (len(_open) > 1 and sum(one.held for one in _open.values()) > MAX_KEPT):
            _open.popitem(last=False)
    return found

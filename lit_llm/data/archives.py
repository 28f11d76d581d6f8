"""Archives as folders: ``texts.zip/letters/may.pdf`` is a member, which is read without being unpacked to the disk.

Zip, and tar as it is or packed with gzip, bzip2, xz or zstandard; an archive within an archive too, to ``MAX_DEPTH``.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from lit_llm.data.compression import COMPRESSED, MAX_RATIO, WINDOW, decompressed, read_within
from lit_llm.data.row_errors import RowError

ARCHIVES = (".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")
MAX_DEPTH = 3  # archives within each other
MAX_MEMBERS = 1_000_000
MAX_TOTAL = 64 * 2**30  # bytes of all members
MAX_INNER = 2 * 2**30  # bytes of an archive within another, which is held in memory
_PACKED = {".tgz": ".gz", ".tbz": ".bz2", ".tbz2": ".bz2", ".txz": ".xz", ".tzst": ".zst"}
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
    return list(_members(file, 1))


def _members(file: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise RowError("archive_bomb", f"{file}: archives within each other, deeper than {MAX_DEPTH}; unpack them")
    for name in _archive(file).names:
        path = f"{file}/{name}"
        if is_archive(name):
            yield from _members(path, depth + 1)
        else:
            yield path


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
    """An open archive and the names of its files. One thread reads at a time."""

    def __init__(self, file: str) -> None:
        self._file, self._lock = file, threading.Lock()
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        try:
            if PurePosixPath(file).suffix.lower() == ".zip":
                self._zip = zipfile.ZipFile(self._bytes())
                entries = [(i.filename, i.file_size) for i in self._zip.infolist() if not i.is_dir()]
                packed = max(1, sum(i.compress_size for i in self._zip.infolist()))
            else:
                self._tar = tarfile.open(fileobj=self._unpacked())  # noqa: SIM115  (kept open)
                entries, packed = [], 0
                total = 0
                for info in self._tar:  # links and devices are no data, and are not followed
                    total += info.size
                    _check(file, len(entries), total, 0)
                    if info.isfile():
                        entries.append((info.name, info.size))
        except _DAMAGED as error:
            raise RowError("damaged_archive", f"{file}: cannot be read as an archive ({_said(error)})") from None
        _check(file, len(entries), sum(size for _, size in entries), packed)
        for name, _ in entries:
            if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or "\0" in name:
                raise RowError(
                    "archive_path", f"{file}: its member {name[:80]!r} leaves the archive; a bomb or a mistake"
                )
        self._stored = {PurePosixPath(name).as_posix(): name for name, _ in entries}
        self.names = list(self._stored)

    def _bytes(self) -> BinaryIO:
        inner = opened(self._file)
        if inner is None:
            return Path(self._file).open("rb")
        return io.BytesIO(read_within(inner, self._file, MAX_INNER))

    def _unpacked(self) -> BinaryIO:
        """A tar without its compression, within the bounds of any compressed file."""
        suffix = PurePosixPath(self._file).suffix.lower()
        suffix = _PACKED.get(suffix, suffix)
        if suffix not in COMPRESSED:
            return self._bytes()
        return cast(BinaryIO, _Rewound(self._file, suffix))

    def open(self, name: str) -> BinaryIO:
        with self._lock:
            try:
                stored = self._stored[name]
                if self._zip is not None:
                    return cast(BinaryIO, self._zip.open(stored))
                assert self._tar is not None
                member = self._tar.extractfile(stored)
                assert member is not None, "links were left out"
                return _buffered(read_within(cast(BinaryIO, member), f"{self._file}/{name}", MAX_INNER))
            except KeyError:
                raise RowError("damaged_archive", f"{self._file}: no member {name!r}") from None
            except _DAMAGED as error:
                what = "encrypted; unpack it" if "encrypted" in str(error) else _said(error)
                raise RowError("damaged_archive", f"{self._file}/{name}: cannot be read ({what})") from None


def _buffered(data: bytearray) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, io.BytesIO(data))))


class _Rewound(io.RawIOBase):
    """A compressed file from which one reads forward; to go back it begins anew."""

    def __init__(self, file: str, suffix: str) -> None:
        self._file, self._suffix, self._at = file, suffix, 0
        self._stream = self._begin()

    def _begin(self) -> BinaryIO:
        packed = opened(self._file) or Path(self._file).open("rb")  # noqa: SIM115  (closed with what comes out)
        return decompressed(packed, self._file, self._suffix)

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
            self._stream, self._at = self._begin(), 0
        while self._at < target and (skipped := len(self._stream.read(min(2**20, target - self._at)))):
            self._at += skipped
        return self._at

    def close(self) -> None:
        self._stream.close()
        super().close()


def _check(file: str, count: int, total: int, packed: int) -> None:
    if count > MAX_MEMBERS or total > MAX_TOTAL or (packed and total > WINDOW and total > MAX_RATIO * packed):
        raise RowError(
            "archive_bomb", f"{file}: {count:,} members of {total:,} bytes; no archive of texts is so, a bomb is"
        )


def _archive(file: str) -> _Archive:
    about = Path(home(file)).stat()
    return _kept(file, (about.st_mtime_ns, about.st_size))


@lru_cache(maxsize=8)
def _kept(file: str, identity: tuple[int, int]) -> _Archive:  # noqa: ARG001  (a file that has changed is opened anew)
    return _Archive(file)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__

"""Bytes and lines of files, also compressed ones, within a bound of memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

from lit_llm.errors import UserError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
MAX_LINE = 64 * 2**20  # bytes: a longer line is no row of text but a mistake, or a bomb
MAX_FILE = 4 * 2**30  # bytes of a text file that is read as one document, after decompression
WINDOW = 64 * 2**20  # bytes that come out of a compressed file between two looks at its ratio
MAX_RATIO = 500  # of a window's bytes to those it came out of: text has 3 to 10, rows that are nearly the same 100
MAX_UNPACKED = 256 * 2**30  # bytes that may come out of one compressed file
_LFS = b"version https://git-lfs.github.com/spec/"
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)


class RowError(UserError):
    """A row or a file that cannot be used. ``reason`` is the word under which it is counted."""

    file = ""  # where it was met, which the reader of files says

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(_LINE_ENDS.sub(" ", message))  # one line, whatever keys and values it names
        self.reason = reason


def open_bytes(file: str) -> BinaryIO:
    """Open for reading, decompressing by extension, within ``MAX_RATIO`` and ``MAX_UNPACKED``.

    Raises RowError for a Git-LFS pointer.
    """
    suffix = Path(file).suffix.lower()
    try:
        packed = Path(file).open("rb")  # noqa: SIM115  (the caller closes it)
    except OSError as error:
        raise RowError("unreadable_file", f"{file}: cannot be opened ({error.strerror or error})") from None
    if packed.peek(len(_LFS)).startswith(_LFS):
        packed.close()
        raise RowError(
            "git_lfs_pointer", f"{file}:1: a Git-LFS pointer stands in place of the data; run `git lfs pull`"
        )
    if suffix not in COMPRESSED:
        return packed
    openers: dict[str, Callable[[BinaryIO], Any]] = {
        ".gz": lambda packed: gzip.GzipFile(fileobj=packed),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": lambda packed: _zstandard(packed, file),
    }
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file, packed, openers[suffix](packed)), 2**20))


class _Unpacked(io.RawIOBase):
    """What comes out of a compressed file, refused where it is more than any text packs into so few bytes.

    The ratio is that of each ``WINDOW`` bytes that come out: a bomb behind honest text is found too.
    """

    def __init__(self, file: str, packed: BinaryIO, unpacked: Any) -> None:
        self._file, self._packed, self._unpacked = file, packed, unpacked
        self._total = self._since = self._packed_before = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unpacked.read(len(buffer))
        buffer[: len(data)] = data
        self._total += len(data)
        self._since += len(data)
        if self._since >= WINDOW or self._total > MAX_UNPACKED:
            self._check()
        return len(data)

    def _check(self) -> None:
        at = self._packed.tell()
        packed = at - self._packed_before
        if self._since > MAX_RATIO * packed:
            raise RowError(
                "decompression_bomb",
                f"{self._file}: {self._since:,} bytes come out of {packed:,}, more than {MAX_RATIO} to 1: no text "
                "packs so, a bomb does; unpack the file yourself if it is meant",
            )
        if self._total > MAX_UNPACKED:
            raise RowError(
                "decompression_bomb",
                f"{self._file}: {self._total:,} bytes come out of {at:,}, more than {MAX_UNPACKED >> 30} GiB; split it "
                "into files",
            )
        self._since, self._packed_before = 0, at

    def close(self) -> None:
        if not self.closed:
            self._unpacked.close()
            self._packed.close()
        super().close()


def _zstandard(packed: BinaryIO, file: str) -> Any:
    try:
        return _Zstandard(packed, import_module("zstandard"))
    except ImportError:
        packed.close()
        raise UserError(f"{file}: .zst needs the zstandard package; pip install 'lit-llm[zst]'") from None


class _Zstandard(io.RawIOBase):
    """Frames one after another. The package's own reader has no lines, and takes a file that is cut for a whole one."""

    def __init__(self, packed: BinaryIO, library: Any) -> None:
        self._packed, self._library, self._left, self._ready = packed, library, b"", b""
        self._frame: Any = None

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; none at the end. Raises OSError, EOFError for a damaged file."""
        while not self._ready and self._more():
            pass
        found, self._ready = self._ready[:size], self._ready[size:]
        return found

    def _more(self) -> bool:
        """Unpacks the next bytes, so few that what comes out of them fits the memory whatever it is."""
        packed = self._left or self._packed.read(1024)
        if not packed:
            if self._frame is not None:
                raise EOFError("the file ends before its end mark")
            return False
        if self._frame is None:
            # Archives of whole forums are packed with windows of 2 GiB (--long=31).
            self._frame = self._library.ZstdDecompressor(max_window_size=2**31).decompressobj()
        try:
            self._ready = self._frame.decompress(packed)
        except self._library.ZstdError as error:
            raise OSError(str(error)) from None
        self._left = self._frame.unused_data if self._frame.eof else b""
        self._frame = None if self._frame.eof else self._frame
        return True


def open_lines(file: str, ends: bool = False) -> Iterator[bytes | RowError]:
    """Lines without their ends (\\n or \\r\\n), or with them (``ends``). A line beyond ``MAX_LINE`` comes as a
    RowError, without holding it."""
    number = 0
    with open_bytes(file) as stream:
        while True:
            number += 1
            try:
                line = stream.readline(MAX_LINE)
                if not line:
                    return
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    yield RowError(
                        "line_too_long", f"{file}:{number}: a line beyond {MAX_LINE >> 20} MiB; one row a line"
                    )
                    continue
            except _DAMAGED as error:
                raise RowError(
                    "damaged_file", f"{file}:{number}: cannot be read further ({_one_line(error)})"
                ) from None
            yield line if ends else line.rstrip(b"\r\n")


def read_bytes(file: str) -> bytearray:
    """The whole file, up to ``MAX_FILE``."""
    data = bytearray()
    with open_bytes(file) as stream:
        try:
            while (part := stream.read(2**20)) and len(data) <= MAX_FILE:
                data += part
        except _DAMAGED as error:
            raise RowError("damaged_file", f"{file}: cannot be read ({_one_line(error)})") from None
    if len(data) > MAX_FILE:
        raise RowError("file_too_long", f"{file}: beyond {MAX_FILE >> 30} GiB; split it into files, or use .jsonl")
    return data


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

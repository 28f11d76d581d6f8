"""Compressed files, unpacked as they are read, within a bound on what may come out of them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO, cast

from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
WINDOW = 64 * 2**20  # bytes that come out of a compressed file between two looks at its ratio
MAX_RATIO = 500  # of a window's bytes to those it came out of: text has 3 to 10, rows that are nearly the same 100
MAX_UNPACKED = 256 * 2**30  # bytes that may come out of one compressed file


def decompressed(packed: BinaryIO, file: str, suffix: str) -> BinaryIO:
    """What comes out of a stream that is compressed as its suffix says, within ``MAX_RATIO`` and ``MAX_UNPACKED``."""
    openers: dict[str, Callable[[BinaryIO], Any]] = {
        ".gz": lambda packed: gzip.GzipFile(fileobj=packed),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": lambda packed: _zstandard(packed, file),
    }
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file, packed, openers[suffix](packed)), 2**20))


def read_within(stream: BinaryIO, file: str, most: int) -> bytearray:
    """A stream to its end, which is closed; RowError where that is beyond ``most`` bytes."""
    data = bytearray()
    with stream:
        while (part := stream.read(2**20)) and len(data) <= most:
            data += part
    if len(data) > most:
        raise RowError("file_too_long", f"{file}: beyond {most / 2**30:g} GiB; split it into files, or use .jsonl")
    return data


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

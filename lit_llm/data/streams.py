"""Bytes and lines of files, also compressed ones, within a bound of memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, cast

from lit_llm.errors import UserError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
MAX_LINE = 64 * 2**20  # bytes: a longer line is no row of text but a mistake, or a bomb
MAX_FILE = 4 * 2**30  # bytes of a text file that is read as one document, after decompression
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)


class RowError(UserError):
    """A row or a file that cannot be used. ``reason`` is the word under which it is counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def open_bytes(file: str) -> BinaryIO:
    """Open for reading, decompressing by extension."""
    suffix = Path(file).suffix.lower()
    try:
        if suffix == ".gz":
            return cast(BinaryIO, gzip.open(file))
        if suffix == ".bz2":
            return cast(BinaryIO, bz2.open(file))
        if suffix == ".xz":
            return cast(BinaryIO, lzma.open(file))
        if suffix == ".zst":
            return _zstandard(file)
        return Path(file).open("rb")
    except OSError as error:
        raise UserError(f"{file}: cannot be opened ({error.strerror or error})") from None


def _zstandard(file: str) -> BinaryIO:
    """Python 3.14 has it; before, the zstandard package has."""
    for module in ("compression.zstd", "zstandard"):
        try:
            library: Any = import_module(module)
        except ImportError:
            continue
        stream: BinaryIO = library.open(file, "rb")
        return stream
    raise UserError(f"{file}: .zst needs the zstandard package; pip install zstandard, or compress as .gz")


def open_lines(file: str) -> Iterator[bytes | RowError]:
    """Lines without their ends (\\n or \\r\\n). A line beyond ``MAX_LINE`` comes as a RowError, without holding it."""
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
            yield line.rstrip(b"\r\n")


def read_bytes(file: str) -> bytes:
    """The whole file, up to ``MAX_FILE``."""
    with open_bytes(file) as stream:
        try:
            data = stream.read(MAX_FILE + 1)
        except _DAMAGED as error:
            raise RowError("damaged_file", f"{file}: cannot be read ({_one_line(error)})") from None
    if len(data) > MAX_FILE:
        raise RowError("file_too_long", f"{file}: beyond {MAX_FILE >> 30} GiB; split it into files, or use .jsonl")
    return data


def undecodable(data: bytes, error: UnicodeDecodeError) -> str:
    """What is wrong with bytes that are no UTF-8, and what would be right."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16 text; save it as UTF-8"
    at = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
    return f"byte {at} (0x{data[error.start]:02x}) is no UTF-8; save the file as UTF-8"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__

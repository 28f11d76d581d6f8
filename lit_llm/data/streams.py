"""Bytes and lines of files, also compressed ones, within a bound of memory."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from lit_llm.data import archives, stores
from lit_llm.data.compression import COMPRESSED, decompressed, read_within
from lit_llm.data.encodings import undecodable
from lit_llm.data.row_errors import RowError, damaged

MAX_LINE = 64 * 2**20  # bytes: a longer line is no row of text but a mistake, or a bomb
MAX_FILE = 4 * 2**30  # bytes of a text file that is read as one document, after decompression
_LFS = b"version https://git-lfs.github.com/spec/"
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class Part:
    """Whole lines of a file that is neither packed nor in an archive."""

    begin: int  # byte
    end: int  # byte behind the last
    line: int  # number of the first line, from 1


def open_bytes(file: str) -> BinaryIO:
    """Open for reading, decompressing by extension, within the bounds of ``compression.py``; a member of an archive
    and a file in a store too.

    Raises RowError for a Git-LFS pointer, UserError for a store that gives nothing.
    """
    suffix = Path(file.partition("?")[0] if stores.is_remote(file) else file).suffix.lower()
    member = archives.opened(file)
    try:
        packed = member or stores.opened(file)
    except OSError as error:
        raise RowError("unreadable_file", f"{file}: cannot be opened ({error.strerror or error})") from None
    if cast(io.BufferedReader, packed).peek(len(_LFS)).startswith(_LFS):
        packed.close()
        raise RowError(
            "git_lfs_pointer", f"{file}:1: a Git-LFS pointer stands in place of the data; run `git lfs pull`"
        )
    if suffix not in COMPRESSED:
        return packed
    return decompressed(packed, file, suffix)


def open_lines(file: str, ends: bool = False, part: Part | None = None) -> Iterator[bytes | RowError]:
    """Lines without their ends (\\n or \\r\\n), or with them (``ends``); of a part its own. A line beyond ``MAX_LINE``
    comes as a RowError, without holding it."""
    number = part.line - 1 if part else 0
    with open_bytes(file) as stream:
        if part:
            stream.seek(part.begin)
        while part is None or stream.tell() < part.end:
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
                raise damaged(f"{file}:{number}", error, "cannot be read further") from None
            yield line if ends else line.rstrip(b"\r\n")


def whole_lines(file: str, encoding: str) -> list[str] | None:
    """The lines of a file whose encoding has other bytes for a line's end, a brace or a quote than ASCII (UTF-16), read
    whole; None of any other, whose lines are read one by one. Raises RowError for bytes that are not in it."""
    if '\n{",'.encode(encoding) == b'\n{",':
        return None
    data = read_bytes(file)
    try:
        return data.decode(encoding).removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        raise undecodable(file, data, error, encoding) from None


def first_bytes(file: str, size: int) -> bytes:
    """Up to so many bytes of a file's beginning."""
    try:
        with open_bytes(file) as stream:
            return stream.read(size)
    except _DAMAGED as error:
        raise damaged(file, error) from None


def read_bytes(file: str, most: int = MAX_FILE) -> bytearray:
    """The whole file, up to so many bytes."""
    try:
        return read_within(open_bytes(file), file, most)
    except _DAMAGED as error:
        raise damaged(file, error) from None

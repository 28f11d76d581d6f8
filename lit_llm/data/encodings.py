"""The encoding of texts: its name, what is wrong with bytes that are not in it, and text that was in another."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Any

from lit_llm.data.charsets import AUTO
from lit_llm.data.row_errors import RowError
from lit_llm.errors import UserError

SHORT = 64  # characters of a text that may be of NULs alone


def checked_encoding(name: str) -> str:
    """The canonical name of a text's encoding, or ``auto``. Raises UserError for what is neither."""
    if name == AUTO:
        return name
    try:
        found = codecs.lookup(name)
        "a".encode(name)  # what is no text encoding (base64, zip) raises LookupError here
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"data.encoding={name}: no encoding; such as utf-8, windows-1256, latin-1, utf-16, or auto"
        ) from None
    return found.name


def no_text(where: object, text: str | bytes) -> RowError | None:
    """The refusal of what has so many NUL characters that it is no text. A short text may be anything; bytes, which no
    reader took for a row, are looked at whatever their length."""
    is_bytes = isinstance(text, bytes)
    found, of = text.count(b"\0") if is_bytes else text.count("\0"), len(text)  # type: ignore[arg-type]
    if found <= of // 4 or (not is_bytes and of <= SHORT):
        return None
    return RowError(
        "nul_byte",
        f"{where}: {found:,} of {of:,} {'bytes' if is_bytes else 'characters'} are NUL: no text, or UTF-16 without its "
        "mark; save it as UTF-8, or set data.encoding=utf-16-le",
    )


def undecodable(
    where: object, data: bytes | bytearray, error: UnicodeDecodeError, encoding: str = "utf-8"
) -> RowError:
    """The refusal of bytes that are not in their encoding: what is wrong, and what would be right."""
    return RowError("invalid_utf8", f"{where}: {_told(data, error, encoding)}")


def _told(data: bytes | bytearray, error: UnicodeDecodeError, encoding: str) -> str:
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "UTF-32 text; save it as UTF-8, or set data.encoding=utf-32"
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16 text; save it as UTF-8, or set data.encoding=utf-16"
    encoding = "utf-8" if encoding == AUTO else encoding
    at = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
    name = "UTF-8" if encoding == "utf-8" else encoding
    return (
        f"byte {at} (0x{data[error.start]:02x}) is no {name}; set data.encoding to what the file is in (such as "
        "windows-1252), or save it as UTF-8"
    )


def holds_utf8(value: Any, encoding: str) -> bool:
    """Whether any text of a row that was decoded by another encoding is UTF-8 in truth."""
    if isinstance(value, Mapping):
        return any(holds_utf8(item, encoding) for item in value.values())
    if isinstance(value, list):
        return any(holds_utf8(item, encoding) for item in value)
    return isinstance(value, str) and _is_utf8(value, encoding)


def _is_utf8(text: str, encoding: str) -> bool:
    """Whether a text that was decoded by another encoding is UTF-8: its bytes beyond ASCII are whole letters of that,
    which hardly happens by chance."""
    try:
        return not text.isascii() and bool(text.encode(encoding).decode("utf-8"))
    except UnicodeError:
        return False

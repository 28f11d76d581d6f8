"""The error of a row, or of a whole file, that cannot be used."""

from __future__ import annotations

import re

from lit_llm.errors import UserError

_LINE_ENDS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")


class RowError(UserError):
    """A row or a file that cannot be used. ``reason`` is the word under which it is counted."""

    file = ""  # where it was met, which the reader of files says
    whole_file = False  # nothing of the file is read behind it

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(_LINE_ENDS.sub(" ", message))  # one line, whatever keys and values it names
        self.reason = reason


def damaged(file: object, error: BaseException, what: str = "cannot be read") -> RowError:
    """The refusal of a file that a library cannot read, or not from here on."""
    return RowError("damaged_file", f"{file}: {what} ({in_one_line(error)})")


def in_json(value: object) -> str:
    """What a value is, as people who write JSON call it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return _CALLED.get(type(value).__name__, f"of the type {type(value).__name__}")


_CALLED = {"str": "a text", "list": "a list", "dict": "an object", "bytes": "bytes, and no text"}


def in_one_line(error: BaseException) -> str:
    """What an error of a library says, short enough to stand in a message."""
    return " ".join(str(error).split())[:120] or type(error).__name__

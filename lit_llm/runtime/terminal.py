"""What people read in a terminal: lines that break between words, and an end without a traceback.

A line that is longer than the terminal is wide is broken by the terminal, in the middle of a word or a number. Files
and programs get every sentence as one line, unless COLUMNS says a width.
"""

from __future__ import annotations

import logging
import os
import re
import select
import shlex
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

COMMAND = re.compile(r"\s*(?:[\w ]+: )?(?:python|tensorboard|lit-llm-\w+) ")
NARROWEST = 40  # a narrower terminal breaks lines as it likes
NOBODY_READS = 141  # as the shell says of a program that SIGPIPE ended


def columns(stream: Any) -> int | None:
    """The width that lines of a stream have to keep to: COLUMNS, else that of its terminal; None where it is none."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None  # 0: a terminal that does not say
    except (AttributeError, OSError, ValueError):
        return None


def broken(text: str, width: int | None) -> str:
    """``text`` with each of its lines broken between words; a command goes on behind a backslash, to be copied whole.

    A word that is longer than ``width``, such as a path, stays whole.
    """
    if width is None or width < NARROWEST:
        return text
    return "\n".join(part for line in text.split("\n") for part in _broken(line, width))


def _broken(line: str, width: int) -> list[str]:
    if len(line) <= width:
        return [line]
    column = re.match(r"\s*\S+\s{2,}(?=\S)", line)  # what stands beside a key goes on beside it
    indent = " " * (column.end() if column and column.end() <= width // 2 else len(line) - len(line.lstrip()) + 2)
    if COMMAND.match(line):
        return _command(line, width, indent)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True, expand_tabs=False, replace_whitespace=False,
    )  # fmt: skip


def _command(line: str, width: int, indent: str) -> list[str]:
    start = line[: len(line) - len(line.lstrip())]
    parts = [start]
    for word in _words(line):
        if parts[-1].strip() and len(f"{parts[-1]} {word} \\") > width:
            parts[-1] += " \\"
            parts.append(indent)
        parts[-1] += word if not parts[-1].strip() else f" {word}"
    return parts


def _words(line: str) -> list[str]:
    """The words of a command, quoted parts whole; a quote that is never closed is a letter like any other."""
    return re.findall(r"(?:[^\s\"']|\"[^\"]*\"|'[^']*'|[\"'])+", line)


class Lines(logging.Formatter):
    """Messages as they are, broken between words where their stream is a terminal."""

    def __init__(self, stream: Any) -> None:
        super().__init__("%(message)s")
        self.stream = stream

    def format(self, record: logging.LogRecord) -> str:
        return broken(super().format(record), columns(self.stream))


def wrap_logs() -> None:
    """From here on what is logged to the terminal is broken between words; the log file keeps whole lines."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setFormatter(Lines(handler.stream))


def started(line: str) -> None:
    """Says at once what the command is at: importing torch takes seconds in which nothing else is printed."""
    print(line, file=sys.stderr, flush=True)


def typed(path: Path | str) -> str:
    """A path as it is typed from here in a shell, for the commands that are printed to be copied."""
    return shlex.quote(near(path))


def near(path: Path | str) -> str:
    """A path as it is written from here."""
    try:
        return str(Path(path).absolute().relative_to(Path.cwd()))
    except (OSError, ValueError):  # elsewhere, or the working folder is gone
        return str(path)


@contextmanager
def quiet_without_reader() -> Iterator[None]:
    """Ends the command without a word when nobody reads its output any more, as in ``command | head -1``."""
    try:
        yield
        _flush()
    except BrokenPipeError:
        if not _closed():  # a worker's pipe, for instance: an error like any other
            raise
        raise SystemExit(NOBODY_READS) from None
    except SystemExit as stop:
        if _closed() and not stop.code:
            raise SystemExit(NOBODY_READS) from None
        raise


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _closed() -> bool:
    """Whether standard output has no reader; what is left of it then goes nowhere, also at the interpreter's end."""
    try:
        _flush()
        closed = _without_reader()
    except BrokenPipeError:
        closed = True
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed


def _without_reader() -> bool:
    """Asked of the system: a long text is written past the buffer, and nothing is left in it to fail a second time."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)  # errors are told unasked
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # a system without poll; an output that is no file
        return False


def utf8_output() -> None:
    """Any script can be printed and typed, whatever the terminal's locale."""
    for file in (sys.stdin, sys.stdout, sys.stderr):
        if hasattr(file, "reconfigure"):
            file.reconfigure(encoding="utf-8", errors="replace")

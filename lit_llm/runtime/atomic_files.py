"""Files that are whole or absent: written beside their place, synced to the disk, renamed. Nothing is left of the rest.

What is being written is called ``.unfinished-<name>.<host>-<process>-<random>``. A full disk or an error removes it at
once; what a killed process left is removed by the next that writes into the folder, or that holds it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from lit_llm.errors import UserError

TEMPORARY = ".unfinished-"
LOCK = ".lock"  # in a folder that one process holds
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_WORDS = ("no space left", "quota exceeded", "file too large", "disk is full")
_FULL_NUMBERS = tuple(f"os error {number}" for number in FULL)


class NotWritten(UserError):  # noqa: N818 (it is what happened)
    """A file or folder that could not be written; what was there before is kept. ``reason``: the system's words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: cannot be written ({reason}); what was there before is kept")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[NotWritten], tuple[Path, str]]:
        """One process tells the others."""
        return type(self), (self.path, self.reason)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A temporary path in the folder of ``path``, which is renamed to it when the block ends well.

    Raises NotWritten, one line, when the disk or the quota is full, or the folder cannot be written to.
    """
    with _temporary(path) as temporary:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105
        sync(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name of its own beside ``path``, of which nothing is left when the block ends; errors as ``beside``."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{_mine()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_abandoned(path.parent)
        yield temporary
    except UserError:
        raise
    except Exception as error:
        found = cannot_be_written(path, error)
        if found is None:
            raise
        raise found from error
    finally:
        remove(temporary)  # or gone by its renaming, or never made


@contextmanager
def written_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its name only once all is on the disk; errors as ``beside``."""
    # 0666 less the umask: readable by whoever may read the folder's other files.
    with beside(path) as temporary, temporary.open("xb") as file:
        yield file


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A new folder that is renamed to ``path`` when the block ends well; errors as ``beside``.

    One that is there already, by another process that was faster, is kept.
    """
    with _temporary(path) as temporary:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            sync(file)
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        sync(path.parent)


def new_folder_beside(path: Path) -> Path:
    """A new folder under a temporary name beside ``path``, which whoever asked for it puts there (``put_in_place``) or
    removes; errors as ``beside``."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{_mine()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean_abandoned(path.parent)
        temporary.mkdir()
    except OSError as error:
        found = cannot_be_written(path, error)
        assert found is not None
        raise found from error
    return temporary


def put_in_place(temporary: Path, path: Path) -> None:
    """Sync a folder to the disk and let it take the place of ``path``, where there may be another, which is removed.

    Who reads sees the old one or the new one. Where the system cannot swap two names at once (it can on Linux's own
    file systems), there is none for an instant between.
    """
    for file in (*temporary.rglob("*"), temporary):
        sync(file)
    old = None
    if path.is_dir() and not path.is_symlink():
        if _swap(temporary, path):
            old = temporary
        else:
            old = path.with_name(f"{TEMPORARY}{path.name}.{_mine()}")
            path.rename(old)
            temporary.rename(path)
    else:
        path.unlink(missing_ok=True)  # a file cannot be replaced by a folder
        temporary.rename(path)
    sync(path.parent)
    if old is not None:
        remove(old)


def take_away(path: Path) -> None:
    """Remove a folder so that its name is gone at once: a kill in between leaves nothing that looks whole."""
    old = path.with_name(f"{TEMPORARY}{path.name}.{_mine()}")
    path.rename(old)
    remove(old)


def _swap(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system or its C library cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Write a text as UTF-8, its line ends as they are; errors as ``beside``."""
    with written_atomically(path) as file:
        file.write(text.encode("utf-8", errors))


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a value as JSON; what JSON has no form for is written as its text. Errors as ``beside``."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    if any("\ud800" <= character <= "\udfff" for character in text):  # half a surrogate pair, which UTF-8 cannot hold
        text = json.dumps(value, indent=indent, default=str)
    write_text(path, text + "\n")


def clean_unfinished(folder: Path) -> None:
    """Remove what killed processes had begun to write, here and in the folders below. Only while the folder is held.

    Below it may be other runs, which hold folders of their own (``hydra.run.dir=outputs``), and a cache that other
    processes of this machine write into: neither is touched.
    """
    for place, below, files in os.walk(folder):
        below[:] = [name for name in below if not Path(place, name, LOCK).exists()]
        for name in [name for name in (*below, *files) if name.startswith(TEMPORARY)]:
            if _writer(name) != "alive":
                remove(Path(place, name))


def clean_abandoned(folder: Path) -> None:
    """Remove what processes of this machine that are no more had begun to write into a folder that others may use."""
    with suppress(OSError):
        for leftover in [Path(entry.path) for entry in os.scandir(folder) if entry.name.startswith(TEMPORARY)]:
            if _writer(leftover.name) == "dead":
                remove(leftover)


def _writer(name: str) -> Literal["alive", "dead", "elsewhere"]:
    """Whether the process that gave a temporary name (``_mine``) still runs, where that can be told."""
    host, _, rest = name.rpartition(".")[2].partition("-")
    number = rest.partition("-")[0]
    if host != _host() or not number.isdecimal():
        return "elsewhere"
    return "alive" if _alive(int(number)) else "dead"


def remove(leftover: Path) -> None:
    """Remove a file or a folder, as far as that is allowed."""
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
        return
    with suppress(OSError):
        leftover.unlink()


def _mine() -> str:
    return f"{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _host() -> str:
    return "".join(character for character in socket.gethostname() if character.isalnum()) or "host"


def _alive(process: int) -> bool:
    if os.name != "posix":  # there the question would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def cannot_be_written(path: Path, error: BaseException) -> NotWritten | None:
    """The one line for an error of writing ``path``; None for an error of another kind."""
    reason = disk_reason(error)
    if reason is None and isinstance(error, OSError):
        reason = error.strerror or str(error)
    return None if reason is None else NotWritten(path, reason)


def disk_reason(error: BaseException | None) -> str | None:
    """In words, where an error or one that it came from says that the disk, the quota or a file's limit is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return error.strerror or str(error)
        # Libraries in other languages (safetensors, SQLite) tell the system's error in their text alone.
        if not isinstance(error, UserError) and isinstance(error, Exception):
            text = " ".join(str(error).split())
            if any(words in text.lower() for words in (*_FULL_WORDS, *_FULL_NUMBERS)):
                return text[:160]
        error = error.__cause__ or error.__context__
    return None


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

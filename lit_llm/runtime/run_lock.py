"""Only one process works in a run folder."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import LOCK, clean_unfinished

try:
    import fcntl
except ImportError:  # Windows has no flock; there the lock is left out
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """Holds a run folder for one process: ``with RunLock(folder): ...``. It is freed when the process dies, however.

    Raises UserError if another process holds it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / LOCK
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"{self.path.parent}: the run folder cannot be written to ({error.strerror})") from error
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise UserError(f"{self.path.parent}: in use by {holder}; choose another folder or wait") from error
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._descriptor = descriptor
        clean_unfinished(self.path.parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)  # closing frees the lock; the file stays: removing it would race with the next
            self._descriptor = None

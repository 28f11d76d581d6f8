"""Only one process works in a run folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import LOCK, clean_unfinished
from lit_llm.runtime.progress_bars import at_work

try:
    import fcntl
except ImportError:  # Windows has no flock; there the lock is left out
    fcntl = None  # type: ignore[assignment]


WAITS = 0.5  # seconds between two looks at a lock


class InUse(UserError):  # noqa: N818 (it is what was found)
    """Another process holds the folder. ``holder``: which, in words."""

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder}: in use by {holder}; choose another folder or wait")
        self.holder = holder


@contextmanager
def alone(folder: str | Path, waiting: Callable[[str], object]) -> Iterator[None]:
    """The only process, and the only thread of it, that works in a folder: others wait until it is free.

    Args:
        waiting: is told once who is waited for.

    Raises UserError if the folder cannot be written to.
    """
    with ExitStack() as shown:
        said = False
        while True:
            lock = RunLock(folder)
            try:
                lock.__enter__()
                break
            except InUse as error:
                if not said:
                    waiting(error.holder)
                    shown.enter_context(at_work(f"waiting for {error.holder}"))
                said = True
                time.sleep(WAITS)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


class RunLock:
    """Holds a run folder for one process: ``with RunLock(folder): ...``. It is freed when the process dies, however.

    Raises InUse if another process holds it, UserError if the folder cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / LOCK
        self._descriptor: int | None = None
        self._process = 0

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
            raise InUse(self.path.parent, holder) from error
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._descriptor, self._process = descriptor, os.getpid()
        clean_unfinished(self.path.parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            # Outright: a process that was forked meanwhile has the descriptor too, and its lock would stay with that.
            if fcntl is not None and os.getpid() == self._process:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)  # the file stays: removing it would race with the next
            self._descriptor = None

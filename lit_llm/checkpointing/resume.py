"""Which checkpoint a run goes on from, and that only one process goes on with it."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lit_llm.checkpointing import atomic
from lit_llm.durable import clean_unfinished
from lit_llm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; there the lock is left out
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
PATTERN = "step-*.ckpt"


def checkpoint_name(step: int) -> str:
    return f"step-{step:09d}.ckpt"


def find_checkpoint(run_folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that verifies; each newer one that does not is named in a warning.

    None if the run was stopped before its first one was finished: one file without a manifest, which stays where it
    is. Raises UserError if there are some and all are bad, or several without manifests, which a stopped run cannot
    leave: a run never starts afresh silently.
    """
    folder = Path(run_folder) / CHECKPOINTS
    if not Path(run_folder).is_dir():
        raise UserError(f"{run_folder}: no such run folder to resume")
    newest_first = sorted(folder.glob(PATTERN), reverse=True)
    problems = []
    for path in newest_first:
        try:
            atomic.load(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            log.warning("not resumed from: %s", problem)
        log.info("resuming from %s", path)
        return path
    unfinished = [path for path in newest_first if not atomic.manifest_path(path).is_file()]
    if len(newest_first) == len(unfinished) == 1:  # cut off before its manifest: nothing was ever finished
        log.warning("%s: was not finished; the run starts anew", unfinished[0])
        return None
    if len(unfinished) == len(newest_first) > 1:
        raise UserError(
            f"{folder}: none of {len(unfinished)} checkpoints has its manifest (such as "
            f"{atomic.manifest_path(newest_first[0]).name}): copy the manifests beside them, or start a run in another "
            "folder"
        )
    if problems:
        raise UserError(f"{folder}: no checkpoint can be resumed from: " + "; ".join(problems))
    return None


class RunLock:
    """Holds a run folder for one process: ``with RunLock(folder): ...``. It is freed when the process dies, however.

    Raises UserError if another process holds it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / ".lock"
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

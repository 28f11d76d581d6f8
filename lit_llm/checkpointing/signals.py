"""Stopping on a signal: at the next step's end, with a checkpoint, and with the exit code that shells expect.

SIGUSR1 and SIGUSR2 are what schedulers send some time before a job's limit (``sbatch --signal=USR2@120``): they stop a
run as SIGTERM does, and its exit code says that it is to be started again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any

SOON = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))  # Windows has none
REQUEUE = tuple(128 + signum for signum in SOON)  # exit codes of runs that time ran out for

_early: int | None = None  # which of SOON came before there was a step to end


class Interrupted(SystemExit):
    """The run was stopped by a signal after its checkpoint was written. Exits with 128 + signal (143, 130, 138 ...)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class StopSignals:
    """Notes SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 instead of dying from them.

    A second SIGTERM or SIGINT leaves at once. The other two may come often: a scheduler sends them to every process of
    a job, and whoever started this one passes them on.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, *SOON)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # python allows handlers nowhere else
            self._process = os.getpid()
            self._before = {signum: signal.signal(signum, self._note) for signum in self.SIGNALS}
        self.received = self.received or _early

    def restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if signum in SOON:
            if self.received is not None or os.getpid() != self._process:  # a loader's worker was forked with this
                return
            said = "saving at the end of this step"
        else:
            signal.signal(signum, signal.SIG_DFL)
            said = "saving at the end of this step; send it again to leave at once"
        first, self.received = self.received is None, signum
        if first and os.getpid() == self._process:
            # A terminal that is gone, or a line that is being written just now, must not end what is to be saved.
            with suppress(OSError, RuntimeError, ValueError):
                print(f"{signal.Signals(signum).name}: {said}", file=sys.stderr, flush=True)


def wait_for_a_step() -> None:
    """From now on SIGUSR1 and SIGUSR2 do not end this process: one that comes while a run is loading is answered at its
    first step's end. For the processes of a run, whose parent waits for all of them."""
    process = os.getpid()

    def note(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        global _early
        if os.getpid() == process:
            _early = signum

    for signum in SOON:
        signal.signal(signum, note)


def leave_at_once() -> None:
    """From now on SIGUSR1, SIGUSR2 and SIGTERM raise ``Interrupted`` where no run is under way: there is nothing to
    save, and whoever waits for this process is told."""
    process = os.getpid()

    def leave(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if os.getpid() == process:
            raise Interrupted(signum)

    for signum in (*SOON, signal.SIGTERM):
        signal.signal(signum, leave)

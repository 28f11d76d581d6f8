"""Stopping on a signal: at the next step's end, with a checkpoint, and with the exit code that shells expect."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Interrupted(SystemExit):
    """The run was stopped by a signal after its checkpoint was written. Exits with 128 + signal (143, 130)."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class StopSignals:
    """Notes SIGTERM and SIGINT instead of dying from them. A second one of the same kind leaves at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        if threading.current_thread() is threading.main_thread():  # python allows handlers nowhere else
            self._before = {signum: signal.signal(signum, self._note) for signum in self.SIGNALS}

    def restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = signum
        signal.signal(signum, signal.SIG_DFL)
        name = signal.Signals(signum).name
        print(f"{name}: saving at the end of this step; send it again to leave at once", file=sys.stderr, flush=True)

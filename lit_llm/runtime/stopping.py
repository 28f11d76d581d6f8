"""Ending a process when it is told to: at once, whatever its main thread is at, or as Ctrl+C does."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_before: dict[int, Any] = {}  # handlers, while this is at work


@contextmanager
def ended_at_once(clean: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within, SIGTERM and SIGINT end this process within a moment, with the status 128 + signal, after ``clean``.

    Python calls a signal's handler between two steps of its main thread, and a backward pass of a large model is one
    step of many seconds. So the signal itself wakes a thread (``signal.set_wakeup_fd``), which runs beside products of
    matrices. Handlers that others install meanwhile (Lightning's, which only takes note) change nothing of that.
    Processes that are forked within have the handlers from before. Outside the main thread nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = socket.socketpair()
    told.setblocking(False)
    watch = threading.Thread(target=_watch, args=(heard, clean), daemon=True)
    watch.start()
    _before.update({signum: signal.signal(signum, _noted) for signum in SIGNALS})
    woken = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        _restore()
        told.send(b"\0")  # a closed end is not seen where a forked process holds it too
        watch.join()
        heard.close()
        told.close()


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within, SIGTERM unwinds this process as Ctrl+C does, with SystemExit(143), so that it clears up behind itself.

    Only where SIGTERM would have ended it: another handler stays, and so does that of processes forked within. Outside
    the main thread nothing is done.
    """
    there = threading.current_thread() is threading.main_thread()
    if not there or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def leave(signum: int, frame: Any) -> None:  # noqa: ARG001
        signal.signal(signum, signal.SIG_DFL)  # the next ends it without more ado
        if os.getpid() != process:
            os.kill(os.getpid(), signum)
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ends_without_waiting(code: int) -> None:
    """Once this process has cleared up behind itself it ends at once, with this status: it waits for no thread, and the
    interpreter, which takes seconds to be taken down with torch in it, is left to the system."""
    atexit.register(_leave, code)


def _leave(code: int) -> None:
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _noted(signum: int, frame: Any) -> None:
    """The thread acts. A handler of Python's must be there, or the thread is not woken."""


def _watch(heard: socket.socket, clean: Callable[[], object]) -> None:
    while (signum := heard.recv(1)[0]) not in SIGNALS:
        if signum == 0:
            return
    print(f"{signal.Signals(signum).name}: stopped", file=sys.stderr, flush=True)
    try:
        clean()
        for child in multiprocessing.active_children():
            child.terminate()
    finally:
        os._exit(128 + signum)


def _restore() -> None:
    for signum, handler in _before.items():
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)
    _before.clear()


# A forked process has its own signals. One that came before it is told so would wake its parent's thread: it waits.


def _forking() -> None:
    if _before:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _here() -> None:
    if _before:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _there() -> None:
    if _before:
        signal.set_wakeup_fd(-1)
        _restore()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(before=_forking, after_in_parent=_here, after_in_child=_there)

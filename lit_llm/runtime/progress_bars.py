"""Progress bars: a terminal redraws one in place; a log file gets a plain line now and then.

A thread shows those that are open, so that one whose next step takes minutes is seen to be at work all the same.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from tqdm import tqdm

from lit_llm.runtime.terminal import columns

EVERY_SECONDS = 15.0  # between two lines of a log file
LOOKS_EVERY = 1.0  # seconds: how often bars are shown by themselves
USUAL = {"ncols": 80, "nrows": 24}  # of a terminal that does not say: in one of none tqdm would draw nothing


class Bar(tqdm):  # type: ignore[misc]
    """tqdm's bar. Where stderr is no terminal, redrawing would write it ten times a second, one after the other: there
    it is a line every ``EVERY_SECONDS``, and a last one; none for work that is done sooner."""

    monitor_interval = 0  # tqdm's own thread shows none of a bar whose next step does not come

    def __init__(self, *args: Any, **options: Any) -> None:
        self._in_place = on_terminal()
        self._begun = self._told = time.monotonic()
        if not self._in_place:
            options["leave"] = False  # what is left is a line already
        elif columns(sys.stderr) is None:
            options |= {**USUAL, "dynamic_ncols": False}
        super().__init__(*args, **options)
        if not self.disable:
            _Shower.shows(self)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Shows the bar as it is. ``msg=""`` clears it: the end of one that does not stay."""
        if self._in_place:
            return bool(super().display(msg, pos))
        now = time.monotonic()
        if now - self._told >= EVERY_SECONDS or (msg == "" and self._told > self._begun):
            self._told = now
            print(str(self), file=self.fp, flush=True)
        return False  # nothing to clear

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within, other lines may be written: the bar is taken off a terminal, and drawn again below them."""
        if not self._in_place:
            yield
            return
        with self.external_write_mode(file=self.fp):
            yield


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Shows for how long what is done within has gone on, where nothing tells how far it is."""
    with Bar(desc=what, bar_format="{desc}: {elapsed}", leave=False, delay=LOOKS_EVERY):
        yield


class _Shower:
    """The thread that shows open bars; it ends with the last of them."""

    open: ClassVar[weakref.WeakSet[Bar]] = weakref.WeakSet()
    thread: ClassVar[threading.Thread | None] = None

    @classmethod
    def shows(cls, bar: Bar) -> None:
        with Bar.get_lock():
            cls.open.add(bar)
            if cls.thread is None:
                cls.thread = threading.Thread(target=cls._run, daemon=True)
                cls.thread.start()

    @classmethod
    def _run(cls) -> None:
        wakes = threading.Event()
        while True:
            wakes.wait(LOOKS_EVERY)
            with Bar.get_lock():
                for bar in [bar for bar in cls.open if bar.disable]:  # closed
                    cls.open.discard(bar)
                if not cls.open:
                    cls.thread = None
                    return
                for bar in list(cls.open):
                    with suppress(OSError, ValueError):  # nobody reads it any more
                        bar.delay = 0.0  # else what is drawn here would not be cleared
                        bar.refresh(nolock=True)


def _own_lock() -> None:
    """A lock of this process alone, whose bars are its own. tqdm's is shared with all that are forked: one that is
    killed while it holds it, or forked while another thread does, would leave the others waiting for ever."""
    Bar.set_lock(threading.RLock())
    _Shower.open, _Shower.thread = weakref.WeakSet(), None


_own_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_own_lock)


def on_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()

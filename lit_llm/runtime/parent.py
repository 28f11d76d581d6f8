"""Ending with the process that started this one, however that one ends.

A process that is killed outright can tell its children nothing, and those in a session of their own (torchrun's) are
not reached by what ends its group either: they would go on for ever, with the memory and the run folder that they hold.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import MutableMapping

PARENT = "LIT_LLM_PARENT"  # tells a process that is being started who does that: it may be no more when it looks
LOOKS_EVERY = 0.5  # seconds, where the system does not tell
ENDED = 128 + 9  # the status of a process that was killed
_PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int, by_thread: bool = False) -> None:
    """From here on this process ends outright within a moment of the end of ``parent``, which started it.

    Linux does it, whatever this process is at. Elsewhere a thread looks who its parent is, twice a second; that needs a
    moment in which the interpreter is free.

    ``by_thread``: a thread of the parent started this process that may end first, which Linux takes for the parent's
    end: then the thread here looks.
    """
    if by_thread or not end_with_the_thread():
        threading.Thread(target=_look, args=(parent,), daemon=True, name="looks after its parent").start()
    elif os.getppid() != parent:  # it was no more before Linux knew
        os._exit(ENDED)


def end_with_the_thread() -> bool:
    """Has Linux kill this process when the thread that started it ends; also across ``exec``. False: elsewhere."""
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def end_with_named(by_thread: bool = False, environ: MutableMapping[str, str] = os.environ) -> None:
    """As ``end_with``, of the parent that named itself by ``PARENT``; without one nothing is done."""
    if (parent := environ.pop(PARENT, "")).isdigit():
        end_with(int(parent), by_thread)


def in_main_thread() -> bool:
    """Whether what is started here is started by the thread that lives as long as its process."""
    return threading.current_thread() is threading.main_thread()


def _look(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOKS_EVERY)
    os._exit(ENDED)

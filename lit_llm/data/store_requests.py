"""Requests to a store, which are made again after failures that may pass, and what may be written of them."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lit_llm.errors import UserError
from lit_llm.runtime.atomic_files import FULL

log = logging.getLogger(__name__)
Value = TypeVar("Value")
TRIES = 6
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between two tries
STALL = 60.0  # seconds after which a request that is not answered whole is made again
LISTING = 1800.0  # the same of a listing, which is many requests
_FINAL = (400, 401, 403, 404, 405, 410)  # answers that do not change when one asks again


def shown(text: str) -> str:
    """A URL, or what a library says of one, as it may be written: without passwords and what is signed."""
    return re.sub(r"(://)[^/@\s]*@", r"\1***@", re.sub(r"\?[^\s'\")]*=[^\s'\")]*", "?...", text))


def tried(
    url: str, call: Callable[[], Value], stalled: Callable[[], object] = lambda: None, within: float | None = None
) -> Value:
    """What ``call`` gives; it is called again after failures that may pass. Raises UserError in the end.

    Args:
        stalled: is called where there was no answer within the time.
        within: seconds that it may take, ``STALL`` if left out; infinity: it is called here, and ends by itself.
    """
    what, name = "", shown(url)
    for pause in (*PAUSES[: TRIES - 1], None):
        try:
            return call() if within == float("inf") else _within(within or STALL, call)
        except FileNotFoundError:
            raise UserError(f"{name}: no such file in the store") from None
        except UserError:
            raise
        except Exception as error:  # each store's library has its own
            if isinstance(error, OSError) and error.errno in FULL:  # of this disk
                raise
            if isinstance(error, TimeoutError):
                stalled()
            what = f"{type(error).__name__}: {shown(' '.join(str(error).split()))[:120]}"
            final = isinstance(error, PermissionError | ImportError) or _status(error) in _FINAL
            if final or type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError"):
                raise UserError(f"{name}: cannot be read ({what}); check the name, and who may read it") from None
        if pause is not None:
            log.warning("%s: %s; trying again in %g s", name, what, pause)
            time.sleep(pause)
    raise UserError(f"{name}: cannot be fetched, {TRIES} times in a row ({what}); try again later")


def _status(error: Exception) -> int:
    """HTTP's status, where a store's library says it: aiohttp, Azure's, Google's, the hub's."""
    for one in (error, getattr(error, "response", None)):
        for name in ("status", "status_code", "code"):
            if isinstance(found := getattr(one, name, None), int):
                return found
    return 0


def _within(seconds: float, call: Callable[[], Value]) -> Value:
    """What ``call`` gives, or TimeoutError: a connection that hangs is left to a thread that ends with the process."""
    box: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            box.put((True, call()))
        except BaseException as error:
            box.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        good, value = box.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer for {seconds:g} seconds") from None
    if good:
        return value  # type: ignore[no-any-return]
    raise value

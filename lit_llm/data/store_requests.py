"""Requests to a store, which are made again after failures that may pass, and what may be written of them."""

from __future__ import annotations

import logging
import queue
import re
import ssl
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
        except UserError:
            raise
        except Exception as raised:  # each store's library has its own
            error = _meant(raised)
            if isinstance(error, FileNotFoundError):
                raise UserError(f"{name}: no such file in the store") from None
            if isinstance(error, OSError) and error.errno in FULL:  # of this disk
                raise
            if isinstance(error, TimeoutError):
                stalled()
            what = f"{type(error).__name__}: {shown(' '.join(str(error).split()))[:120]}"
            if (tls := _tls(error)) is not None:
                raise UserError(
                    f"{name}: no secure connection ({shown(' '.join(str(tls).split()))[:120]}); check that the server "
                    "speaks https at this address, and its certificate"
                ) from None
            if _is_final(error):
                raise UserError(f"{name}: cannot be read ({what}); check the name, and who may read it") from None
        if pause is not None:
            log.warning("%s: %s; trying again in %g s", name, what, pause)
            time.sleep(pause)
    raise UserError(f"{name}: cannot be fetched, {TRIES} times in a row ({what}); try again later")


def _meant(error: BaseException) -> BaseException:
    """What a store's library found. fsspec's for web pages and the hub's call every failure a file that is not there,
    and name what it was as the cause."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None and _status(error.__cause__) != 404:
        error = error.__cause__
    return error


def _tls(error: BaseException) -> ssl.SSLError | None:
    """What is wrong with a connection's encryption, where it will be wrong the next time too: a server that speaks
    without, a certificate that nobody vouches for. Not a connection that ended early."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        if isinstance(found, ssl.SSLError):
            passing = ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError | ssl.SSLWantReadError
            return None if isinstance(found, passing) else found
        seen.add(id(found))
        # aiohttp has it inside, botocore and requests beside.
        inside = getattr(found, "os_error", None)
        found = inside if isinstance(inside, ssl.SSLError) else found.__cause__ or found.__context__
    return None


def _is_final(error: BaseException) -> bool:
    """Whether asking again would be answered the same."""
    if isinstance(error, PermissionError | ImportError) or _status(error) in _FINAL:
        return True
    if type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError", "HFValidationError"):
        return True
    return isinstance(error, OSError) and str(error).startswith("Forbidden: ")  # gcsfs of 403, which has no number then


def _status(error: BaseException) -> int:
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

"""Serves a project: on this machine only unless told otherwise."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.web.application import create_app
from lit_llm.feedback.web.security import LOCAL_HOSTS


def serve(
    store: Store,
    host: str = "127.0.0.1",
    port: int = 8000,
    open_browser: bool = False,
    https: bool = False,
    hosts: Sequence[str] = (),
    secret: bytes | None = None,
) -> None:
    """Serves until it is interrupted (Ctrl+C).

    Args:
        host: the address to listen at; anything but this machine's own makes the app reachable from outside.
        port: 0 lets the system choose one.
        open_browser: whether to open the page in this machine's browser.
        https: whether a proxy in front serves it by https.
        hosts: further names that browsers use for this machine, for the host check (``*``: any).
        secret: signs the log-ins; by default a file beside an SQLite project keeps it, so that they outlive a restart.

    Raises UserError when the address cannot be listened at.
    """
    known = tuple(dict.fromkeys([*LOCAL_HOSTS, *_names(host), *hosts]))
    app = create_app(store, secret or kept_secret(store.place), https, known)
    listener = _listen(host, port)
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '') else host}:{listener.getsockname()[1]}/"
    print(f"ranking at {address} (Ctrl+C ends it)", flush=True)
    if not _is_local(host) and not https:
        print("warning: passwords cross the network in the clear; put an https proxy in front (https=true)", flush=True)
    if open_browser:
        threading.Timer(0.5, webbrowser.open, (address,)).start()
    config = uvicorn.Config(
        app, log_level="warning", server_header=False, proxy_headers=https, timeout_graceful_shutdown=5
    )
    with contextlib.suppress(KeyboardInterrupt), listener:
        uvicorn.Server(config).run(sockets=[listener])


def kept_secret(place: str) -> bytes:
    """The secret in ``FILE.db.secret``, made (readable by its owner alone) at the first time; for a database that is
    no file, a new one each time. Raises UserError for a place that takes no file."""
    if "://" in place or not Path(place).is_file():
        return secrets.token_bytes(32)
    file = Path(place + ".secret")
    try:
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as out:
                    out.write(secrets.token_bytes(32))
            except OSError:  # a full disk: half a secret is not kept
                file.unlink(missing_ok=True)
                raise
        found = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be written and read ({error.strerror or error}); log-ins need it") from None
    if len(found) < 16:
        raise UserError(f"{file}: has {len(found)} bytes; delete it, and a new one is made (everybody logs in again)")
    return found


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"port={port}: cannot listen at {host}:{port} ({reason}); choose another port") from None


def _names(host: str) -> tuple[str, ...]:
    """Under which names a browser may ask for this address; listening at all addresses needs ``hosts`` to say."""
    return () if host in ("0.0.0.0", "::", "") else (f"[{host}]" if ":" in host else host,)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False

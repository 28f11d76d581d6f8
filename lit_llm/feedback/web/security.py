"""What stands between the network and the routes: host and origin checks, body limit, the headers of every response.

The answers that are ranked come from models and may hold anything, so the page may run nothing but its own files:
no inline script, no inline style, nothing fetched from elsewhere (W3C, Content Security Policy Level 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",  # the draft is saved by fetch()
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make browsers send "Origin: null" with our own forms
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""The names a browser on this machine uses. Another name is another site that points its name at us (DNS rebinding)."""

BODY_LIMIT = 1 << 20
"""Bytes of one request's body: a judgement with long comments takes a few tens of thousands."""


READS = ("GET", "HEAD", "OPTIONS")


UPLOADS = {"/admin/import": 32 << 20}
"""Bytes of the bodies of the paths that take files."""


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: what it guards.
        hosts: host names (without port) that a request may be addressed to; ``*`` allows any.
        https: whether the page is served over https: then browsers are told to stay there.
        body_limit: bytes of a request's body (see ``UPLOADS``); more is answered with 413 and never reaches a route.
    """

    def __init__(
        self, app: ASGIApp, hosts: Sequence[str] = LOCAL_HOSTS, https: bool = False, body_limit: int = BODY_LIMIT
    ) -> None:
        self.app = app
        self.hosts = {host.lower() for host in hosts}
        self.https = https
        self.body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = self._with_headers(send, scope["path"])
        if not self._knows(Headers(scope=scope).get("host", "")):
            await PlainTextResponse("This host name is not served here.\n", 400)(scope, receive, send)
            return
        if scope["method"] not in READS and _is_foreign(Headers(scope=scope)):
            await PlainTextResponse("This request comes from another site.\n", 403)(scope, receive, send)
            return
        body = await self._read(scope, receive)
        if body is None:
            await PlainTextResponse("The request is too large.\n", 413, {"Connection": "close"})(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    def _knows(self, host: str) -> bool:
        name = host.lower()
        if not name.endswith("]"):  # an IPv6 address without a port keeps its colons
            name = name.rpartition(":")[0] if ":" in name else name
        return "*" in self.hosts or name in self.hosts

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None as soon as it is known to be over the limit (whatever its length claims)."""
        length = Headers(scope=scope).get("content-length", "0")
        limit = UPLOADS.get(scope["path"], self.body_limit)
        if not length.isdigit() or int(length) > limit:
            return None
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":  # the client went away
                return bytes(body)
            body += bytes(message.get("body", b""))
            if len(body) > limit:
                return None
            if not message.get("more_body", False):
                return bytes(body)

    def _with_headers(self, send: Send, path: str) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if self.https:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                # What one annotator saw must not come back for the next one at the same machine.
                headers["Cache-Control"] = "no-cache" if path.startswith("/static/") else "no-store"
            await send(message)

        return wrapped


def _is_foreign(headers: Headers) -> bool:
    """Whether a browser says that another site's page sent this (W3C Fetch Metadata; RFC 6454, section 7).

    Both headers are the browser's own: no page can set them. Programs send neither, browsers without https only Origin.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site not in ("same-origin", "none"):
        return True
    if origin is None or site == "same-origin":
        return False
    return origin.partition("://")[2].lower() != headers.get("host", "").lower()


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()  # what comes after the body: the disconnection
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again

"""The signed cookie that says who asks, and the token that proves a write comes from our own page.

The cookie holds a random nonce, the account and the account's session version (a changed password or a log-out raises
it, which ends every older session: a copied cookie, too), and the language. The CSRF token is a keyed hash of the
nonce (OWASP, "HMAC based token pattern"); logging in draws a new nonce, so neither a planted cookie nor an old token
lives on.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

MAX_AGE = 14 * 24 * 3600
"""Seconds that a log-in lasts."""


@dataclass(frozen=True, slots=True)
class Session:
    """What the cookie holds. ``account`` None: not logged in."""

    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    account: int | None = None
    session_version: int = 0
    language: str = ""

    def logged_in(self, account: int, session_version: int, language: str) -> Session:
        return Session(account=account, session_version=session_version, language=language)

    def speaking(self, language: str) -> Session:
        return replace(self, language=language)


class Sessions:
    """Reads and writes the cookie.

    Args:
        secret: at least 16 random bytes; who knows them can be anybody.
        https: whether the page is served over https; the cookie is then never sent without it.
    """

    def __init__(self, secret: bytes, https: bool = False) -> None:
        if len(secret) < 16:
            raise ValueError(f"the secret has {len(secret)} bytes; at least 16 are needed")
        self.secret = secret
        self.https = https
        # Browsers send cookies to every port of a machine: two projects served side by side must not share a name.
        name = f"lit_llm-{hashlib.sha256(b'cookie:' + secret).hexdigest()[:12]}"
        self.cookie = f"__Host-{name}" if https else name
        self.serializer = URLSafeTimedSerializer(
            secret, salt="session", signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
        )

    def read(self, request: Request) -> Session | None:
        """The session of a request; None for no cookie, a forged one or one that is too old."""
        try:
            content: Any = self.serializer.loads(request.cookies.get(self.cookie, ""), max_age=MAX_AGE)
            return Session(**content)
        except (BadData, TypeError):
            return None

    def write(self, response: Response, session: Session) -> None:
        value = self.serializer.dumps(asdict(session))
        response.set_cookie(
            self.cookie,
            value if isinstance(value, str) else value.decode(),
            max_age=MAX_AGE,
            path="/",
            secure=self.https,
            httponly=True,
            samesite="lax",
        )

    def token(self, session: Session) -> str:
        """The CSRF token that belongs to a session: 64 hexadecimal digits."""
        return hmac.new(self.secret, b"csrf:" + session.nonce.encode(), hashlib.sha256).hexdigest()

    def token_is_right(self, session: Session, given: str) -> bool:
        return hmac.compare_digest(self.token(session).encode(), given.encode("utf-8", "replace"))

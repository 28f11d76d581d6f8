"""Who asks, and whether the request may be believed: what every route takes as its arguments.

A route that writes takes ``Form``, ``Upload`` or ``Body``; reading it checks the CSRF token, so none can forget it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Path
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.accounts import Account
from lit_llm.feedback.web.hostile_text import storable
from lit_llm.feedback.web.sessions import Session

MAX_FIELDS = 2000
DEEPEST = 16  # levels of a JSON body; a judgement has four


class LoginNeeded(Exception):  # noqa: N818 - refusals, as the store's
    """Nobody is logged in, or the session has ended."""


class Refused(Exception):  # noqa: N818
    """A request that is not taken: ``status`` and a key of the language catalogue that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def session(request: Request) -> Session:
    """The visitor's session; a new one where the cookie brings none (``pages.page`` then sends it)."""
    if not hasattr(request.state, "session"):
        known = request.app.state.sessions.read(request)
        request.state.session = known or Session()
        request.state.new_session = known is None
    found: Session = request.state.session
    return found


def account_of(request: Request) -> Account | None:
    """Who is logged in. A deactivated account or a password changed since the log-in: nobody."""
    if not hasattr(request.state, "account"):
        here = session(request)
        found = accounts.account(request.app.state.store, here.account) if here.account is not None else None
        good = found is not None and found.active and found.session_version == here.session_version
        request.state.account = found if good else None
    known: Account | None = request.state.account
    return known


def logged_in(request: Request) -> Account:
    found = account_of(request)
    if found is None:
        raise LoginNeeded
    return found


def in_role(*roles: str) -> Callable[[Request], Account]:
    def check(request: Request) -> Account:
        found = logged_in(request)
        if found.role not in roles:
            raise Refused(403, "error.forbidden")
        return found

    return check


class Fields:
    """A form that was sent: every field may come several times."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def one(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.pairs if key == name), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.pairs if key == name]

    def number(self, name: str, default: int = 0) -> int:
        try:
            return int(self.one(name))
        except ValueError:
            return default


async def form(request: Request) -> Fields:
    """The fields of a form, cleaned for storing. Raises Refused without the session's token."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Refused(415, "error.bad")
    try:
        pairs = parse_qsl((await request.body()).decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refused(400, "error.bad") from None
    fields = Fields([(storable(name), storable(value)) for name, value in pairs])
    _check_token(request, fields.one("csrf"))
    return fields


async def upload(request: Request) -> tuple[str, bytes]:
    """The name and the bytes of the field ``file`` of a form that uploads. Raises Refused without the token."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(415, "error.bad")
    try:
        async with request.form(max_files=1, max_fields=10) as sent:
            _check_token(request, str(sent.get("csrf", "")))
            file = sent.get("file")
            if not isinstance(file, UploadFile):
                raise Refused(400, "error.bad")
            return file.filename or "", await file.read()
    except HTTPException:
        raise Refused(400, "error.bad") from None


async def body(request: Request) -> dict[str, Any]:
    """A JSON object, its texts cleaned for storing. Raises Refused without the token in ``X-CSRF-Token``."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "error.bad")
    _check_token(request, request.headers.get("x-csrf-token", ""))
    try:
        cleaned = _cleaned(json.loads(await request.body(), parse_constant=_no_constant))
    except (ValueError, RecursionError):
        raise Refused(400, "error.bad") from None
    if not isinstance(cleaned, dict):
        raise Refused(400, "error.bad")
    return cleaned


def _check_token(request: Request, given: str) -> None:
    if not request.app.state.sessions.token_is_right(session(request), given):
        raise Refused(403, "error.token")


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _cleaned(value: Any, depth: int = 0) -> Any:
    if depth > DEEPEST:
        raise ValueError(f"nested deeper than {DEEPEST}")
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_cleaned(part, depth + 1) for part in value]
    if isinstance(value, dict):
        return {storable(key): _cleaned(part, depth + 1) for key, part in value.items()}
    return value


Annotator = Annotated[Account, Depends(logged_in)]
Adjudicator = Annotated[Account, Depends(in_role("admin", "adjudicator"))]
Admin = Annotated[Account, Depends(in_role("admin"))]
Id = Annotated[int, Path(ge=1, le=2**31 - 1)]  # what every database takes for a number of a row
Form = Annotated[Fields, Depends(form)]
Upload = Annotated[tuple[str, bytes], Depends(upload)]
Body = Annotated[dict[str, Any], Depends(body)]

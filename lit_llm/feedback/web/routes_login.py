"""Log in, log out, and the language of the pages."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.refusals import Throttled
from lit_llm.feedback.web import access, pages
from lit_llm.feedback.web.access import Form, account_of, session
from lit_llm.feedback.web.languages import languages
from lit_llm.feedback.web.sessions import Session

router = APIRouter()
FIRST_PAGE = {"admin": "/admin", "adjudicator": "/admin/adjudicate"}
Visitor = Annotated[Session, Depends(session)]


@router.get("/login")
def show_login(request: Request) -> Response:
    if account_of(request):
        return pages.go("/")
    return _login_page(request)


@router.post("/login")
def log_in(request: Request, form: Form) -> Response:
    """A new session for the right password; 401 for a wrong one, 429 for too many tries."""
    say, name = pages.language_of(request).say, form.one("name")
    address = request.client.host if request.client else ""
    try:
        account = accounts.authenticate(request.app.state.store, name, form.one("password"), address)
    except Throttled as error:
        seconds = max(1, math.ceil(error.seconds))
        response = _login_page(request, 429, say("login.throttled", seconds=seconds), name)
        response.headers["Retry-After"] = str(seconds)
        return response
    if account is None:
        return _login_page(request, 401, say("login.wrong"), name)
    # Whoever comes to look after the project must not take an item from the annotators by logging in.
    response = pages.go(FIRST_PAGE.get(account.role, "/"))
    here = session(request)
    new = here.logged_in(account.id, account.session_version, here.language or account.language)
    request.app.state.sessions.write(response, new)
    return response


@router.post("/logout")
def log_out(request: Request, form: Form) -> Response:  # noqa: ARG001 - reading the form checks the token
    """Ends the account's sessions everywhere: no copy of the cookie outlives the log-out."""
    account = account_of(request)
    if account:
        accounts.end_sessions(request.app.state.store, account.id)
    response = pages.go("/login")
    request.app.state.sessions.write(response, Session(language=session(request).language))
    return response


@router.post("/language")
def set_language(request: Request, form: Form) -> Response:
    """Keeps the language in the session and, for an annotator, in the account; then back to a page of ours."""
    code = form.one("language")
    if code not in languages():
        raise access.Refused(400, "error.bad")
    account = account_of(request)
    if account:
        accounts.set_language(request.app.state.store, account.id, code)
    response = pages.go(_own_path(form.one("back")))
    request.app.state.sessions.write(response, session(request).speaking(code))
    return response


def _login_page(request: Request, status: int = 200, problem: str = "", name: str = "") -> Response:
    return pages.page(request, "login.html", status, problem=problem, name=name, back="/login")


def _own_path(path: str) -> str:
    """A path on this site; anything that a browser could read as another site (``//x``, ``/\\x``) becomes ``/``."""
    plain = path.startswith("/") and not path.startswith("//") and path.isascii() and path.isprintable()
    return path if plain and "\\" not in path else "/"

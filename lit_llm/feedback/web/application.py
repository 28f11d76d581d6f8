"""The web application: routes, guard, and what every refusal looks like, as a page or as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.store.refusals import Invalid, LeaseLost, NotYours, Stale, Unavailable
from lit_llm.feedback.web import (
    pages,
    routes_adjudication,
    routes_admin,
    routes_api,
    routes_browsing,
    routes_export,
    routes_import,
    routes_items,
    routes_login,
)
from lit_llm.feedback.web.access import LoginNeeded, Refused
from lit_llm.feedback.web.security import LOCAL_HOSTS, Guard
from lit_llm.feedback.web.sessions import Sessions

STATIC = Path(__file__).parent / "static"

# Exception, status, what a program is told, the catalogue's key of what a person is told.
REFUSALS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (LoginNeeded, 401, "log in first", "login.ended"),
    (NotYours, 404, "there is no such item of yours", "error.not_found"),
    (LeaseLost, 410, "the time ran out and somebody else has the item", "lost.text"),
    (Unavailable, 503, "the database did not take it; try again", "error.unavailable"),
    (RequestValidationError, 404, "there is no such page", "error.not_found"),
)


def create_app(store: Store, secret: bytes, https: bool = False, hosts: Sequence[str] = LOCAL_HOSTS) -> FastAPI:
    """The ranking app of one project.

    Args:
        store: the open project.
        secret: at least 16 random bytes that sign the cookies; with the same secret, log-ins outlive a restart.
        https: whether browsers reach it by https: then cookies are never sent without.
        hosts: host names that requests may be addressed to (without port); ``*`` for any.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.store = store
    app.state.sessions = Sessions(secret, https)
    app.add_middleware(Guard, hosts=tuple(hosts), https=https)
    for part in (
        routes_login,
        routes_browsing,
        routes_items,
        routes_api,
        routes_admin,
        routes_export,
        routes_import,
        routes_adjudication,
    ):
        app.include_router(part.router)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for kind, status, error, key in REFUSALS:
        app.add_exception_handler(kind, _refusal(status, error, key))
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Invalid, _invalid)
    app.add_exception_handler(Stale, _stale)
    app.add_exception_handler(HTTPException, _http)
    return app


def _is_program(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def _say(request: Request, status: int, error: str, text: str) -> Response:
    if _is_program(request):
        return pages.as_json({"error": error}, status)
    return pages.message(request, status, pages.language_of(request).say("error.title"), text)


def _refusal(status: int, error: str, key: str):  # type: ignore[no-untyped-def] # a handler of starlette's
    def handle(request: Request, _problem: Exception) -> Response:
        if status == 401 and not _is_program(request) and request.method == "GET":
            return pages.go("/login")
        return _say(request, status, error, pages.language_of(request).say(key))

    return handle


def _refused(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Refused)
    text = pages.language_of(request).say(problem.reason)
    return _say(request, problem.status, text, text)


def _invalid(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Invalid)
    if _is_program(request):  # our own script among them, which shows "text"
        return pages.as_json({"error": str(problem), "text": pages.why_not(request, problem)}, 422)
    return _say(request, 422, str(problem), pages.why_not(request, problem))


def _stale(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Stale)
    return _say(request, 409, "changed elsewhere", pages.language_of(request).say("conflict.title"))


def _http(request: Request, problem: Exception) -> Response:
    """Unknown addresses and methods: starlette's own refusals, in our clothes."""
    assert isinstance(problem, HTTPException)
    text = pages.language_of(request).say("error.not_found")
    response = _say(request, problem.status_code, str(problem.detail), text)
    for name, value in (problem.headers or {}).items():
        response.headers[name] = value
    return response

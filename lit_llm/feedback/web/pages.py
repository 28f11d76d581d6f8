"""Renders templates: the language, the session's token and the account reach every page from here."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lit_llm.feedback.store.projects import settings
from lit_llm.feedback.store.refusals import Invalid
from lit_llm.feedback.web import access, hostile_text
from lit_llm.feedback.web.languages import Language, choose, languages

FOLDER = Path(__file__).parent


@cache
def environment() -> Environment:
    """Jinja with escaping always on; a name that a template misspells is an error."""
    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    found.filters["plain"] = hostile_text.plain
    found.filters["shown"] = hostile_text.shown
    return found


def language_of(request: Request) -> Language:
    """The session's choice, else the account's, else what the browser asks for."""
    account = access.account_of(request)
    wanted = access.session(request).language or (account.language if account else "")
    return choose(wanted, request.headers.get("accept-language", ""))


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A template as a response, with ``values`` beside what ``base.html`` needs."""
    response = HTMLResponse(render(request, template, **values), status)
    if request.state.new_session:
        request.app.state.sessions.write(response, request.state.session)
    return response


def render(request: Request, template: str, **values: Any) -> Markup:
    """A template as HTML."""
    language = language_of(request)
    token = request.app.state.sessions.token(access.session(request))
    given: dict[str, Any] = {
        "t": language.say,
        "language": language,
        "languages": languages(),
        "account": access.account_of(request),
        "csrf_field": Markup('<input type="hidden" name="csrf" value="{}">').format(token),
        "title": settings(request.app.state.store).title,
        "back": request.url.path if request.method == "GET" else "/",
        "here": "",
        **values,
    }
    return Markup(environment().get_template(template).render(given))


def message(request: Request, status: int, heading: str, text: str, **values: Any) -> Response:
    """A page with one message and a way on. ``heading`` and ``text`` are sentences, not keys."""
    given = {"entered": None, "link": None, "link_text": None, **values}
    return page(request, "message.html", status, heading=heading, text=text, **given)


INVALID = {
    "too_few": "item.too_few", "ties": "item.no_ties", "text": "item.text_refused", "flags": "item.too_many_flags",
    "submitted": "item.is_submitted",
}  # fmt: skip


def why_not(request: Request, error: Invalid) -> str:
    """Why a judgement is not taken: in the page's language where people can meet it, else in the store's words."""
    key = INVALID.get(error.reason)
    return language_of(request).say(key) if key else str(error)


def go(place: str) -> RedirectResponse:
    """After a write: see other (a reload then repeats nothing)."""
    return RedirectResponse(place, 303)


def as_json(content: Any, status: int = 200, version: int | None = None) -> Response:
    """JSON in ASCII, which carries any text; ``version`` of an item becomes its ``ETag``."""
    headers = {} if version is None else {"ETag": f'"{version}"'}
    return Response(json.dumps(content), status, headers, media_type="application/json")

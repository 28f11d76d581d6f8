"""The same as JSON: what the page's script uses, and any other program (a team's own tools, load tests).

Log in by ``POST /login`` as a browser does; ``GET /api/next`` or ``/api/progress`` bring the CSRF token that every
write needs in ``X-CSRF-Token``. A write names the version it saw: ``If-Match: "3"``.
"""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lit_llm.feedback import judgement_json
from lit_llm.feedback.store import accounts, assignment, judgements
from lit_llm.feedback.store.items import Item
from lit_llm.feedback.store.refusals import LeaseLost, Stale
from lit_llm.feedback.web import access, pages, routes_items
from lit_llm.feedback.web.access import Admin, Annotator, Body, Id, Refused

router = APIRouter(prefix="/api")


@router.get("/next")
def next_item(request: Request, account: Annotator) -> Response:
    """{"item": the annotator's open item or a new one, null when there is nothing left; "csrf": the token}."""
    item = assignment.next_item(request.app.state.store, account.id)
    content = {"item": item_as_json(item) if item else None, "csrf": _token(request)}
    return pages.as_json(content, version=item.version if item else None)


@router.get("/items/{assignment_id}")
def get_item(request: Request, account: Annotator, assignment_id: Id) -> Response:
    """One item; an open one's lease is renewed. 404 when it is not the annotator's, 410 when its lease was lost."""
    item = assignment.open_item(request.app.state.store, account.id, assignment_id)
    return pages.as_json({"item": item_as_json(item), "csrf": _token(request)}, version=item.version)


@router.put("/items/{assignment_id}")
def save_item(request: Request, account: Annotator, body: Body, assignment_id: Id) -> Response:
    """Saves the judgement (see ``judgement_json``) as a draft or, with ``submit``, for good.

    200 with the new version; 409 with the current version and what is saved; 410 for a lost lease; 422 with the
    reason for a judgement that cannot be; 428 without ``If-Match``.
    """
    store, version = request.app.state.store, _if_match(request)
    judgement, submit = judgement_json.read(body), judgement_json.submits(body)
    try:
        new = judgements.save(store, account.id, assignment_id, version, judgement, submit)
    except Stale as error:
        return _conflict(request, account.id, assignment_id, error.current)
    content: dict[str, Any] = {"version": new, "submitted": submit}
    if not submit:  # the draft renewed the lease
        content["lease_until"] = assignment.open_item(store, account.id, assignment_id).lease_until
    return pages.as_json(content, version=new)


@router.post("/items/{assignment_id}/skip")
def skip_item(request: Request, account: Annotator, body: Body, assignment_id: Id) -> Response:
    """{"reason": why}; answered as ``save_item``."""
    version, reason = _if_match(request), body.get("reason", "")
    if not isinstance(reason, str):
        raise Refused(400, "error.bad")
    try:
        new = judgements.skip(request.app.state.store, account.id, assignment_id, version, reason)
    except Stale as error:
        return _conflict(request, account.id, assignment_id, error.current)
    return pages.as_json({"version": new, "skipped": True}, version=new)


@router.post("/undo")
def undo(request: Request, account: Annotator, body: Body) -> Response:
    """Takes the last finished item back, or the one of the last ten that ``assignment_id`` names."""
    named = body.get("assignment_id")
    if named is not None and (isinstance(named, bool) or not isinstance(named, int)):
        raise Refused(400, "error.bad")
    item = judgements.undo(request.app.state.store, account.id, named)
    return pages.as_json({"item": item_as_json(item) if item else None}, version=item.version if item else None)


@router.get("/progress")
def get_progress(request: Request, account: Annotator) -> Response:
    """{"done", "total": rankings of the project, "mine": this annotator's, "csrf": the token}."""
    return pages.as_json({**routes_items.shown_progress(request, account), "csrf": _token(request)})


@router.get("/agreement")
def get_agreement(request: Request, account: Admin) -> Response:  # noqa: ARG001 - the role is checked
    """The measures of agreement, as ``agreement.summary`` has them."""
    from lit_llm.feedback import agreement  # scipy and krippendorff are slow to load

    return pages.as_json(agreement.summary(request.app.state.store))


@router.get("/users")
def get_users(request: Request, account: Admin) -> Response:  # noqa: ARG001
    """{"users": every account, oldest first; "csrf": the token}; made and ended at ``/admin/annotators``."""
    shown = ("id", "name", "pseudonym", "role", "language", "active", "simulated")
    people = [{key: getattr(one, key) for key in shown} for one in accounts.annotators(request.app.state.store)]
    return pages.as_json({"users": people, "csrf": _token(request)})


def item_as_json(item: Item) -> dict[str, Any]:
    """What an annotator may know of an item, and no more."""
    return {
        "assignment_id": item.assignment_id,
        "version": item.version,
        "state": item.state,
        "lease_until": item.lease_until,
        "now": time.time(),
        "messages": [{"role": message.role, "content": message.content} for message in item.messages],
        "cards": [{"key": card.key, "text": card.text} for card in item.cards],
        "draft": judgement_json.write(item.draft) if item.draft else None,
    }


def _conflict(request: Request, annotator_id: int, assignment_id: int, current: int) -> Response:
    """409: the version that is kept, and what it says, as data and as the page shows it."""
    content: dict[str, Any] = {
        "error": "changed elsewhere",
        "version": current,
        "state": "",
        "saved": None,
        "saved_html": "",
    }
    try:
        item = assignment.open_item(request.app.state.store, annotator_id, assignment_id)
    except LeaseLost:
        return pages.as_json(content, 409, version=current)
    content["state"] = item.state
    content["saved"] = judgement_json.write(item.draft) if item.draft else None
    content["saved_html"] = str(routes_items.saved_in_words(request, item))
    return pages.as_json(content, 409, version=current)


def _if_match(request: Request) -> int:
    """The version that the client saw. Raises Refused (428, RFC 6585) where it says none."""
    text = request.headers.get("if-match", "").strip().removeprefix("W/").strip('"')
    if not text.isdecimal() or len(text) > 9:
        raise Refused(428, "error.bad")
    return int(text)


def _token(request: Request) -> str:
    token: str = request.app.state.sessions.token(access.session(request))
    return token

"""The annotator's pages: the next item, one item's form, skip, undo, the last ten. They need no script."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lit_llm.feedback.store import assignment, judgements
from lit_llm.feedback.store.accounts import Account
from lit_llm.feedback.store.items import Item
from lit_llm.feedback.store.progress import counts
from lit_llm.feedback.store.projects import settings
from lit_llm.feedback.store.refusals import Invalid, LeaseLost, Stale
from lit_llm.feedback.web import item_view, judgement_form, pages
from lit_llm.feedback.web.access import Annotator, Fields, Form, Id
from lit_llm.feedback.web.judgement_form import Entry
from lit_llm.feedback.web.rank_moves import moved

router = APIRouter()
SKIP_REASONS = ("unclear", "expertise", "language", "disturbing", "broken", "other")
NOTICES = {
    "saved": "item.saved", "skipped": "item.skipped", "undone": "item.undone", "draft": "item.draft_saved",
    "again": "item.again",
}  # fmt: skip


@router.get("/")
def next_item(request: Request, account: Annotator, done: str = "") -> Response:
    """On to the annotator's open item or a new one; a page that says so when there is nothing left."""
    store = request.app.state.store
    item = assignment.next_item(store, account.id)
    if item is None:
        return pages.page(request, "nothing.html", progress=shown_progress(request, account), here="rank")
    return pages.go(f"/items/{item.assignment_id}" + (f"?done={done}" if done in NOTICES else ""))


@router.get("/items/{assignment_id}")
def show_item(request: Request, account: Annotator, assignment_id: Id, done: str = "") -> Response:
    try:
        item = assignment.open_item(request.app.state.store, account.id, assignment_id)
    except LeaseLost:
        return _lost(request)
    said = NOTICES.get("again" if item.again else done)
    notice = pages.language_of(request).say(said) if said else ""
    can_undo = done in ("saved", "skipped")
    return item_page(request, account, item, item_view.entry_of(item), notice=notice, can_undo=can_undo)


@router.post("/items/{assignment_id}")
def save_item(request: Request, account: Annotator, form: Form, assignment_id: Id) -> Response:
    """Saves or submits the form. 409 with everything that was entered when the item was changed elsewhere."""
    store = request.app.state.store
    action = form.one("action", "save")
    try:
        item = assignment.open_item(store, account.id, assignment_id)
    except LeaseLost:
        return _lost(request, form)
    entry = _read(item, form)
    direction, _, key = action.partition(":")
    if direction in ("up", "down") and key in (keys := [card.key for card in item.cards]):
        ranks = moved(entry.judgement.ranks, keys, key, direction == "up")
        entry = replace(entry, judgement=replace(entry.judgement, ranks=ranks))
    version = form.number("version", -1)
    if entry.problems:
        return _refuse(request, account, item, entry, version, _problem(request, entry))
    submit = action == "submit"
    try:
        judgements.save(store, account.id, assignment_id, version, entry.judgement, submit)
    except Stale:
        return _stale(request, account, assignment_id, entry)
    except LeaseLost:
        return _lost(request, form)
    except Invalid as error:
        return _refuse(request, account, item, entry, version, pages.why_not(request, error))
    if submit:
        return pages.go("/?done=saved")
    return pages.go(f"/items/{assignment_id}?done=draft" + (f"#card-{key}" if key else ""))


@router.post("/items/{assignment_id}/skip")
def skip_item(request: Request, account: Annotator, form: Form, assignment_id: Id) -> Response:
    """Skips with a reason; without one the page comes back with all that was entered."""
    store, reason, more = request.app.state.store, form.one("skip_reason"), form.one("skip_text").strip()
    try:
        item = assignment.open_item(store, account.id, assignment_id)
    except LeaseLost:
        return _lost(request, form)
    entry, version = _read(item, form), form.number("version", -1)
    if reason not in SKIP_REASONS:
        say = pages.language_of(request).say
        return _refuse(request, account, item, entry, version, say("skip.needed"), skip_open=True, skip_text=more)
    try:
        judgements.skip(store, account.id, assignment_id, version, f"{reason}: {more}" if more else reason)
    except Stale:
        return _stale(request, account, assignment_id, entry, skip_open=True, skip_reason=reason, skip_text=more)
    except LeaseLost:
        return _lost(request, form)
    return pages.go("/?done=skipped")


@router.post("/undo")
def undo(request: Request, account: Annotator, form: Form) -> Response:
    """Takes back the annotator's last item, or the one of the last ten that ``assignment`` names."""
    named = form.number("assignment") or None
    try:
        item = judgements.undo(request.app.state.store, account.id, named)
    except LeaseLost:
        return _lost(request)
    if item is None:
        say = pages.language_of(request).say
        return pages.message(request, 404, say("item.undo"), say("undo.none"))
    return pages.go(f"/items/{item.assignment_id}?done=undone")


@router.get("/recent")
def show_recent(request: Request, account: Annotator) -> Response:
    say = pages.language_of(request).say
    rows = [
        {
            "id": one.assignment_id,
            "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.finished_at)),
            "prompt": one.prompt[:200],
            "what": say("recent." + (one.state if one.state in ("submitted", "skipped") else "reopened")),
            "finished": one.state in ("submitted", "skipped"),
        }
        for one in judgements.recent(request.app.state.store, account.id)
    ]
    return pages.page(request, "recent.html", rows=rows, here="recent")


@router.get("/help")
def show_help(request: Request, account: Annotator) -> Response:  # noqa: ARG001 - whoever asks is logged in
    return pages.page(request, "help.html", flag_kinds=settings(request.app.state.store).flag_kinds)


def item_page(
    request: Request, account: Account, item: Item, entry: Entry, status: int = 200, **values: Any
) -> Response:
    """The page of an item with ``entry`` in its form. ``values``: notice, problem, conflict, skip_..., version."""
    action, is_open = f"/items/{item.assignment_id}", item.state in ("leased", "draft")
    project, language = settings(request.app.state.store), pages.language_of(request)
    given = item_view.form_values(action, item.version, item.messages, item.cards, entry, language, project)
    given |= {
        "save_at": f"/api{action}" if is_open else "", "can_save": is_open,
        "lease_until": item.lease_until if is_open else None,
        "skip_at": f"{action}/skip" if is_open else None, "has_help": True, "skip_reasons": SKIP_REASONS,
        "notice": "", "problem": "", "conflict": "", "can_undo": False, "here": "rank", "back": action,
        "progress": shown_progress(request, account),
    }  # fmt: skip
    return pages.page(request, "item.html", status, **given | values)


def shown_progress(request: Request, account: Account) -> dict[str, int]:
    """Rankings of the whole project that are done and wanted, and the annotator's own."""
    found = counts(request.app.state.store, account.id)
    return {"done": found.rankings, "total": max(found.wanted, found.rankings), "mine": found.mine}


def _read(item: Item, form: Fields) -> Entry:
    return judgement_form.read(form, item.cards, item.draft.seconds if item.draft else 0.0)


def _problem(request: Request, entry: Entry) -> str:
    language = pages.language_of(request)
    return " ".join(language.say(one.reason, card=item_view.letter(one.card, language)) for one in entry.problems)


def _refuse(
    request: Request, account: Account, item: Item, entry: Entry, version: int, problem: str, **values: Any
) -> Response:
    """422: the page again, with what was entered, under the version it was entered on."""
    return item_page(request, account, item, entry, 422, problem=problem, version=version, **values)


def _stale(request: Request, account: Account, assignment_id: int, entry: Entry, **values: Any) -> Response:
    """409: what was entered stays in the form, beside what is saved; sending it again is then a choice."""
    item = assignment.open_item(request.app.state.store, account.id, assignment_id)
    return item_page(request, account, item, entry, 409, conflict=saved_in_words(request, item), **values)


def saved_in_words(request: Request, item: Item) -> Any:
    """What is saved of an item, as HTML."""
    language = pages.language_of(request)
    if item.draft is None and not item.skip_reason:
        return language.say("saved.nothing")
    judged = item_view.in_words(item.draft or judgements.Judgement(), item.cards, language)
    if item.skip_reason:
        skipped = language.say("saved.skipped", reason=item.skip_reason)
        judged["lines"].insert(0, {"card": "", "what": language.say("recent.skipped"), "text": skipped})
    return pages.render(request, "_saved.html", judged=judged)


def _lost(request: Request, form: Fields | None = None) -> Response:
    """410: the lease ended and somebody else has the item. What was typed is shown, to be copied."""
    say = pages.language_of(request).say
    entered = pages.render(request, "_entered.html", pairs=_typed(form)) if form and _typed(form) else None
    return pages.message(request, 410, say("lost.title"), say("lost.text"), entered=entered)


def _typed(form: Fields) -> list[tuple[str, str]]:
    kept = ("rank.", "note.", "flag", "comment", "all_bad", "helpful.", "honest.", "harmless.")
    return [(name, value) for name, value in form.pairs if value.strip() and name.startswith(kept)]

"""Disputed items: where the annotators disagree most, what each said, and the final ranking."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lit_llm.errors import UserError
from lit_llm.feedback.store import adjudication
from lit_llm.feedback.store.adjudication import Dispute
from lit_llm.feedback.store.judgement import Judgement
from lit_llm.feedback.store.projects import settings
from lit_llm.feedback.store.refusals import Invalid, Stale
from lit_llm.feedback.web import item_view, judgement_form, pages
from lit_llm.feedback.web.access import Adjudicator, Form, Id, Refused
from lit_llm.feedback.web.judgement_form import Entry
from lit_llm.feedback.web.languages import Language

router = APIRouter(prefix="/admin/adjudicate")


@router.get("")
def list_disputed(request: Request, account: Adjudicator, done: int = 0, decided: int = 0) -> Response:  # noqa: ARG001
    language = pages.language_of(request)
    rows = [
        {
            "id": one.task_id,
            "agreement": "–" if one.agreement is None else f"{one.agreement:.0%}",
            "prompt": one.messages[-1].content[:200],
            "opinions": [opinion["order"] for opinion in _opinions(one, language)],
            "final": one.final is not None,
        }
        for one in adjudication.disputed(request.app.state.store, decided=bool(decided))
    ]
    notice = language.say("admin.adjudicated") if done else ""
    return pages.page(request, "disputed.html", rows=rows, notice=notice, decided=bool(decided), here="adjudicate")


@router.get("/{task_id}")
def show_dispute(request: Request, account: Adjudicator, task_id: Id) -> Response:  # noqa: ARG001
    found = _dispute(request, task_id)
    return _page(request, found, Entry(found.final or Judgement()))


@router.post("/{task_id}")
def decide(request: Request, account: Adjudicator, form: Form, task_id: Id) -> Response:
    """Keeps the final ranking; without script ``Add this flag`` is the only button that comes back to the page."""
    found, version = _dispute(request, task_id), form.number("version", -1)
    entry = judgement_form.read(form, found.cards)
    if entry.problems or form.one("action") != "submit":
        language = pages.language_of(request)
        said = [language.say(one.reason, card=item_view.letter(one.card, language)) for one in entry.problems]
        return _page(request, found, entry, 422 if said else 200, " ".join(said), version=version)
    try:
        adjudication.adjudicate(request.app.state.store, account.id, task_id, entry.judgement, version)
    except Stale:  # under the newer version: sending it again is then a choice
        found = _dispute(request, task_id)
        return _page(request, found, entry, 409, conflict=_decided(request, found))
    except Invalid as error:
        return _page(request, found, entry, 422, pages.why_not(request, error), version=version)
    return pages.go("/admin/adjudicate?done=1")


def _dispute(request: Request, task_id: int) -> Dispute:
    try:
        return adjudication.dispute(request.app.state.store, task_id)
    except UserError:
        raise Refused(404, "error.not_found") from None


def _decided(request: Request, found: Dispute) -> Any:
    """What is decided, as HTML."""
    judged = item_view.in_words(found.final or Judgement(), found.cards, pages.language_of(request))
    return pages.render(request, "_saved.html", judged=judged)


def _page(
    request: Request, found: Dispute, entry: Entry, status: int = 200, problem: str = "", **values: Any
) -> Response:
    language, path = pages.language_of(request), f"/admin/adjudicate/{found.task_id}"
    project = settings(request.app.state.store)
    given = item_view.form_values(path, found.version, found.messages, found.cards, entry, language, project)
    given |= {
        "opinions": _opinions(found, language),
        "problem": problem,
        "conflict": "",
        "back": path,
        "here": "adjudicate",
    }
    return pages.page(request, "dispute.html", status, **given | values)


def _opinions(found: Dispute, language: Language) -> list[dict[str, Any]]:
    letters = {card.key: item_view.letter(place, language) for place, card in enumerate(found.cards)}
    return [
        {
            "who": one.pseudonym,
            "order": " · ".join(
                part
                for part in (item_view.order(one.ranks, letters), language.say("item.all_bad") if one.all_bad else "")
                if part
            ),
            "comment": one.comment,
        }
        for one in found.opinions
    ]

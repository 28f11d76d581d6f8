"""The admin's pages: progress, agreement, accounts, exports."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lit_llm.errors import UserError
from lit_llm.feedback.store import accounts
from lit_llm.feedback.store.exports import exports
from lit_llm.feedback.store.progress import progress
from lit_llm.feedback.store.tables import ROLES
from lit_llm.feedback.web import pages
from lit_llm.feedback.web.access import Admin, Form, Id, Refused
from lit_llm.feedback.web.languages import Language, languages
from lit_llm.feedback.web.routes_export import KINDS

router = APIRouter(prefix="/admin")
EXPORTS_SHOWN = 20
SHARES = {"pair_agreement", "gold_accuracy", "self_consistency", "first_is_best"}


@router.get("")
def show_progress(request: Request, account: Admin) -> Response:  # noqa: ARG001 - the role is checked
    found = progress(request.app.state.store)
    rows = [
        {
            "name": one.name, "pseudonym": one.pseudonym, "submitted": one.submitted, "skipped": one.skipped,
            "too_fast": one.too_fast, "open": one.open, "gold": _percent(one.gold_accuracy, one.gold),
            "seconds": "–" if one.median_seconds is None else f"{one.median_seconds:.0f} s",
            "last": "–" if one.last_at is None else _time(one.last_at),
        }
        for one in found.annotators
    ]  # fmt: skip
    made = [
        {"at": _time(one.at), "kind": one.kind, "rows": sum(one.counts.values()), "hash": one.hash[:16]}
        for one in exports(request.app.state.store)[:EXPORTS_SHOWN]
    ]
    return pages.page(request, "admin.html", found=found, rows=rows, kinds=KINDS, exports=made, here="admin")


@router.get("/agreement")
def show_agreement(request: Request, account: Admin) -> Response:  # noqa: ARG001
    from lit_llm.feedback import agreement  # scipy and krippendorff are slow to load

    language = pages.language_of(request)
    found = agreement.summary(request.app.state.store)
    rows = [
        {"name": language.say(f"agreement.{name}"), "value": _interval(found[name], name in SHARES, language),
         "n": found[name]["n"], "chance": _percent(found[name].get("chance"))}
        for name in agreement.COEFFICIENTS
    ]  # fmt: skip
    people = [
        {"name": name, "rankings": of["rankings"],
         **{key: _interval(of[key], True, language) for key in ("pair_agreement", "gold_accuracy", "self_consistency")}}
        for name, of in found["by_annotator"].items()
    ]  # fmt: skip
    return pages.page(
        request, "agreement.html", found=found, rows=rows, people=people, sentence=_sentence(found, language),
        here="agreement",
    )  # fmt: skip


@router.get("/annotators")
def show_annotators(request: Request, account: Admin) -> Response:  # noqa: ARG001
    return _annotators(request)


@router.post("/annotators")
def create_annotator(request: Request, account: Admin, form: Form) -> Response:  # noqa: ARG001
    """Makes an account and shows its password, this once."""
    name, role, code = form.one("name").strip(), form.one("role", "annotator"), form.one("language", "en")
    if role not in ROLES or code not in languages():
        raise Refused(400, "error.bad")
    try:
        new = accounts.add_annotator(request.app.state.store, name, role=role, language=code)
    except UserError as error:
        return _annotators(request, 422, problem=str(error), name=name)
    return _annotators(request, 201, new={"name": new.name, "password": new.password})


@router.post("/annotators/{annotator_id}/password")
def reset_password(request: Request, account: Admin, form: Form, annotator_id: Id) -> Response:  # noqa: ARG001
    """A new password, shown this once; the account's sessions end."""
    whose = _known(request, annotator_id)
    password = accounts.set_password(request.app.state.store, annotator_id)
    return _annotators(request, new={"name": whose.name, "password": password})


@router.post("/annotators/{annotator_id}/deactivate")
def deactivate(request: Request, account: Admin, form: Form, annotator_id: Id) -> Response:  # noqa: ARG001
    whose = _known(request, annotator_id)
    try:
        accounts.deactivate(request.app.state.store, annotator_id)
    except UserError as error:
        return _annotators(request, 422, problem=str(error))
    say = pages.language_of(request).say
    return _annotators(request, notice=say("admin.deactivated", name=whose.name))


def _known(request: Request, annotator_id: int) -> accounts.Account:
    found = accounts.account(request.app.state.store, annotator_id)
    if found is None:
        raise Refused(404, "error.not_found")
    return found


def _annotators(request: Request, status: int = 200, **values: Any) -> Response:
    given = {"new": None, "problem": "", "notice": "", "name": "", **values}
    people = accounts.annotators(request.app.state.store)
    path = "/admin/annotators"
    return pages.page(
        request, "annotators.html", status, people=people, roles=ROLES, here="annotators", back=path, **given
    )


def _sentence(found: dict[str, Any], language: Language) -> str:
    """What the table comes to, for people who know none of its measures."""
    alike, alpha = found["pair_agreement"]["mean"], found["alpha_ranks"]["mean"]
    if alike is None or alpha is None:
        return language.say("agreement.nothing")
    return language.say("agreement.sentence", alike=f"{alike:.0%}", alpha=f"{alpha:.2f}")


def _interval(value: dict[str, Any], percent: bool, language: Language) -> str:
    """``62.0% [55.0%, 69.0%]``: a mean and its 95% interval."""
    if value["mean"] is None:
        return language.say("agreement.unknown")
    form = "{:.1%}" if percent else "{:.3f}"
    text = form.format(value["mean"])
    return text if value["low"] is None else f"{text} [{form.format(value['low'])}, {form.format(value['high'])}]"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def _percent(value: float | None, n: int | None = None) -> str:
    return "–" if value is None else f"{value:.1%}" + ("" if n is None else f" ({n})")

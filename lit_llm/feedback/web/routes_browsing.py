"""The list of items: what the annotator has ranked and what not, to open one again."""

from __future__ import annotations

import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lit_llm.feedback.store.browsing import Wanted, browse
from lit_llm.feedback.web import pages
from lit_llm.feedback.web.access import Annotator

router = APIRouter()
CHOICES: dict[Wanted, str] = {"all": "items.all", "ranked": "items.ranked", "unranked": "items.unranked"}
STATES = {
    "submitted": "items.submitted", "skipped": "items.skipped", "draft": "items.open", "leased": "items.open",
    None: "items.not_yet",
}  # fmt: skip


@router.get("/items")
def show_items(request: Request, account: Annotator, show: Wanted = "all", page: int = 1) -> Response:
    """One page of the list; what was not opened yet comes in the project's own order and is no link."""
    say = pages.language_of(request).say
    found = browse(request.app.state.store, account.id, show, min(page, 10**6))
    rows = [
        {
            "number": one.number, "prompt": one.prompt[:300], "id": one.assignment_id, "what": say(STATES[one.state]),
            "state": one.state or "",
            "when": "" if one.finished_at is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(one.finished_at)),
        }
        for one in found.rows
    ]  # fmt: skip
    choices = [{"name": name, "text": say(key)} for name, key in CHOICES.items()]
    return pages.page(request, "items.html", found=found, rows=rows, wanted=show, choices=choices, here="items")

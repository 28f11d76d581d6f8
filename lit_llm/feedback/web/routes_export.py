"""The admin's download: the rankings as JSONL, in the forms that training reads; each download is noted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lit_llm.feedback import exporting
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.web.access import Admin, Form, Refused

router = APIRouter()
KINDS: tuple[exporting.Kind, ...] = ("rankings", "pairs", "labels")


@router.post("/admin/export")
def download(request: Request, account: Admin, form: Form) -> Response:  # noqa: ARG001 - the role is checked
    """``kind``: rankings, pairs or labels; ``adjudicated`` 1: final rankings in place of those they settle.

    A form, although a file comes back: the project notes the download.
    """
    adjudicated = form.one("adjudicated") == "1"
    known = next((one for one in KINDS if one == form.one("kind", "rankings")), None)
    if known is None:
        raise Refused(404, "error.not_found")
    store: Store = request.app.state.store
    found = exporting.export_rows(store, known, adjudicated)
    headers = {"Content-Disposition": f'attachment; filename="{known}.jsonl"'}
    lines = _lines(store, known, adjudicated, found)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


def _lines(store: Store, kind: exporting.Kind, adjudicated: bool, found: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    """The lines of the file; once the last has gone, the project notes their hash and counts, as for a file."""
    lines = exporting.Lines(found)
    yield from lines
    lines.note(store, kind, {"adjudicated": adjudicated})

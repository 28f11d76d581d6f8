"""The admin's download: the rankings as JSONL, in the forms that training reads."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lit_llm.feedback.store.rankings import rows
from lit_llm.feedback.web.access import Admin, Refused

router = APIRouter()
KINDS = ("rankings",)


@router.get("/admin/export")
def download(request: Request, account: Admin, kind: str = "rankings", adjudicated: bool = False) -> Response:  # noqa: ARG001
    """``kind``: rankings, pairs or labels; ``adjudicated``: final rankings in place of those they settle."""
    if kind not in KINDS:
        raise Refused(404, "error.not_found")
    found = rows(request.app.state.store, adjudicated=adjudicated)
    headers = {"Content-Disposition": f'attachment; filename="{kind}.jsonl"'}
    return StreamingResponse(_lines(found), media_type="application/x-ndjson", headers=headers)


def _lines(found: Iterator[dict[str, object]]) -> Iterator[bytes]:
    for row in found:
        yield json.dumps(row).encode() + b"\n"

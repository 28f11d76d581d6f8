"""The admin's upload: prompts with answers to rank, and rankings made elsewhere, as a file of JSON lines."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from lit_llm.errors import UserError
from lit_llm.feedback.store.engine import Store
from lit_llm.feedback.web import pages
from lit_llm.feedback.web.access import Admin, Upload

router = APIRouter()


@router.post("/admin/import")
def take(request: Request, account: Admin, upload: Upload) -> Response:  # noqa: ARG001 - the role is checked
    """Adds all rows of the field ``file`` or, when one of them cannot be taken, none (422, with its line)."""
    say = pages.language_of(request).say
    try:
        counts = _taken(request.app.state.store, *upload)
    except UserError as error:
        return pages.message(request, 422, say("admin.import"), str(error))
    return pages.message(request, 200, say("admin.import"), counts)


def _taken(store: Store, name: str, content: bytes) -> str:
    """The counts of what was added. The file keeps its name, for the messages that name it."""
    from lit_llm.feedback.importing import add_rows, read_items

    kept = re.sub(r"[^\w.-]", "_", name)[-80:].lstrip(".")
    with TemporaryDirectory() as folder:
        file = Path(folder) / (kept if kept.endswith(".jsonl") else "import.jsonl")
        file.write_bytes(content)
        try:
            return str(add_rows(store, read_items(str(file))))
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "")) from None
